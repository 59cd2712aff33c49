"""The chat completions endpoint: full and streamed answers, history, and invalid requests."""

import json
from typing import Any

import torch

from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.chat_response import Completion
from lit_hour.types import Message
from tests.server.helpers import MODEL, RunningServer, chat_body

QUESTION = "What do you see?"


def generate_directly(
    predictor: VideoPredictor, server: RunningServer, video: str, question: str, *history: str
) -> str:
    """Return the answer of the predictor, without the server."""
    memory = predictor.encode_video(server.state.videos.get(video).path)
    turns = [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(history)]
    *_, answer = predictor.generate(memory, question, turns)
    assert isinstance(answer, Answer)
    return answer.text


def content_of(completion: dict[str, Any]) -> str:
    return completion["choices"][0]["message"]["content"]


def test_the_answer_equals_that_of_the_predictor(
    server: RunningServer, predictor: VideoPredictor, video: str
) -> None:
    response = server.chat(video, QUESTION)
    assert response.status == 200
    completion = response.json()
    assert completion["object"] == "chat.completion" and completion["model"] == MODEL
    choice = completion["choices"][0]
    expected = generate_directly(predictor, server, video, QUESTION)
    assert choice["message"] == {"role": "assistant", "content": expected}
    assert len(expected) > 5 and choice["finish_reason"] == "length"
    extension = completion["lit_hour"]
    assert extension["num_frames"] > 0 and extension["num_memory_tokens"] > 0
    assert {"decode", "encode", "first_token", "other_tokens"} == set(extension["seconds"])
    assert "evidence" not in extension


def test_a_streamed_answer_equals_the_full_one(server: RunningServer, video: str) -> None:
    events = list(server.stream(video, QUESTION))
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
    full = server.chat(video, QUESTION).json()
    assert "".join(pieces) == content_of(full)
    assert sum(bool(piece) for piece in pieces) > 3
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *reasons, last_reason = [event["choices"][0]["finish_reason"] for event in events]
    assert set(reasons) == {None} and last_reason == "length"
    assert set(events[-1]["lit_hour"]) == set(full["lit_hour"])
    assert len({event["id"] for event in events}) == 1
    response = server.chat(video, QUESTION, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.body.endswith(b"data: [DONE]\n\n")


def test_usage_counts_the_tokens(
    server: RunningServer, predictor: VideoPredictor, video: str
) -> None:
    memory = predictor.encode_video(server.state.videos.get(video).path)
    with torch.inference_mode():
        prompt = predictor.build_prompts(memory, [predictor.processor.build_prompt(QUESTION, ())])
    num_prompt_tokens = prompt.embeddings.shape[1]
    usage = {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": 3,
        "total_tokens": num_prompt_tokens + 3,
    }
    assert server.chat(video, QUESTION, max_tokens=3).json()["usage"] == usage
    options = {"include_usage": True}
    *events, last = server.stream(video, QUESTION, max_tokens=3, stream_options=options)
    assert (last["choices"], last["usage"]) == ([], usage)
    assert not any("usage" in event for event in events)


def test_earlier_turns_change_the_answer(
    server: RunningServer, predictor: VideoPredictor, video: str
) -> None:
    question, history = "Which color?", (QUESTION, "a square")
    answer = content_of(server.chat(video, *history, question).json())
    assert answer == generate_directly(predictor, server, video, question, *history)
    assert answer != generate_directly(predictor, server, video, question)


def test_max_tokens_cuts_the_answer(server: RunningServer, video: str) -> None:
    full = content_of(server.chat(video, QUESTION).json())
    completion = server.chat(video, QUESTION, max_tokens=3).json()
    text = content_of(completion)
    begun = text.rstrip("\N{REPLACEMENT CHARACTER}")  # of a character whose bytes were cut
    assert begun and full.startswith(begun) and len(text) < len(full)
    assert completion["choices"][0]["finish_reason"] == "length"


def test_invalid_requests_are_rejected_with_a_reason(server: RunningServer) -> None:
    part: dict[str, Any] = {"type": "video_url", "video_url": {"url": "video-1"}}
    other_part = {**part, "video_url": {"url": "video-2"}}
    user = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
    cases: tuple[tuple[Any, int, str], ...] = (
        ("", 400, "not valid JSON"),
        ("[]", 400, "The body must be a JSON object"),
        ("{" * 10_000, 400, "not valid JSON"),
        ({"model": None, "messages": [user]}, 400, "model is required"),
        ({"messages": []}, 400, "messages has 0 items"),
        ({"messages": [user], "n": 0}, 400, "n must be a whole number at least 1"),
        ({"messages": [user], "max_tokens": 0}, 400, "max_tokens must be a whole number"),
        (
            {"messages": [user], "lit_hour": {"evidenze": True}},
            400,
            "lit_hour.evidenze is not supported",
        ),
        ({"messages": [{"role": "user", "content": [part, other_part]}]}, 400, "but 2 were given"),
        ({"messages": [user], "model": "gpt"}, 404, f"no model 'gpt' here, only '{MODEL}'"),
        ({"messages": [user]}, 404, "There is no such video"),
        ("x" * 1_000_001, 413, "larger than 1 MB"),
    )
    for request, status, message in cases:
        body = request if isinstance(request, str) else json.dumps({"model": MODEL, **request})
        response = server.post("/v1/chat/completions", body)
        assert response.status == status, body[:200]
        assert message in response.error, body[:200]
        assert response.json()["error"]["code"] == status
    without_model = server.post("/v1/chat/completions", json.dumps({"messages": [user]}))
    assert without_model.status == 400 and "model is required" in without_model.error


def test_streamed_errors_before_the_first_token_set_the_status(
    server: RunningServer, video: str
) -> None:
    for question, message in (
        (" ", "he question is empty"),
        ("red " * 40_000, "does not fit beside the visual tokens of walk.mp4"),
    ):
        for stream in (False, True):
            response = server.chat(video, question, stream=stream)
            assert response.status == 422 and message in response.error


def test_a_question_waits_until_the_video_is_ready(server: RunningServer, clip: bytes) -> None:
    video = server.upload(clip).json()["id"]
    *_, last = server.stream(video, "What?")
    assert last["choices"][0]["finish_reason"] == "length"


def test_the_model_is_listed(server: RunningServer) -> None:
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == [MODEL]


def test_chat_body_alternates_the_roles() -> None:
    assert json.loads(chat_body("v", "a", "b", "c"))["messages"][1:] == [
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_an_empty_answer_has_a_list_of_logprobs_if_they_are_wanted() -> None:
    empty = Answer("", 1, 1, 1, 1, "stop", {})
    for has_logprobs, expected in ((True, {"content": [], "refusal": None}), (False, None)):
        (choice,) = Completion.begin("model").full([empty], None, has_logprobs)["choices"]
        assert choice.get("logprobs") == expected
