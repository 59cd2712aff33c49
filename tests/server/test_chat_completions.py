"""OpenAI's chat completions over HTTP: whole, streamed, with earlier turns, and what is no conversation."""

import json
from typing import Any

import pytest
import torch

from lit_hour.inference.predictor import Answer, VideoPredictor
from lit_hour.types import Message
from tests.server.running import MODEL, Running, conversation


def say(
    predictor: VideoPredictor, served: Running, video: str, question: str, *history: str
) -> str:
    """What the predictor itself answers."""
    memory = predictor.encode_video(served.server.videos.get(video).path)
    turns = [Message(("user", "assistant")[place % 2], text) for place, text in enumerate(history)]
    *_, answer = predictor.generate(memory, question, turns)
    assert isinstance(answer, Answer)
    return answer.text


def test_an_answer_is_what_the_predictor_says(
    served: Running, predictor: VideoPredictor, video: str
) -> None:
    reply = served.chat(video, "What is there?")
    assert reply.status == 200
    content = reply.json()
    assert content["object"] == "chat.completion" and content["model"] == MODEL
    said = content["choices"][0]["message"]
    assert said == {"role": "assistant", "content": say(predictor, served, video, "What is there?")}
    assert len(said["content"]) > 5
    assert content["choices"][0]["finish_reason"] == "length"  # it babbles on
    seen = content["lit_hour"]
    assert (
        seen["num_frames"] > 0
        and seen["num_memory_tokens"] > 0
        and "first_token" not in seen["evidence"]
    )
    assert all(
        0 <= moment["start_seconds"] < moment["end_seconds"] <= 4.1
        for moment in seen["evidence"]["moments"]
    )
    assert len(seen["evidence"]["curve"]) == seen["num_frames"]


def test_a_streamed_answer_is_the_same_piece_by_piece(served: Running, video: str) -> None:
    events = list(served.stream(video, "What is there?"))
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
    whole = served.chat(video, "What is there?").json()
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len([piece for piece in pieces if piece]) > 3
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (
        len(events) - 1
    ) + ["length"]
    assert events[-1]["lit_hour"]["evidence"] == whole["lit_hour"]["evidence"]
    assert len({event["id"] for event in events}) == 1
    body = served.chat(video, "What is there?", stream=True)
    assert body.headers["content-type"].startswith("text/event-stream") and body.body.endswith(
        b"data: [DONE]\n\n"
    )


def test_the_tokens_are_counted(served: Running, predictor: VideoPredictor, video: str) -> None:
    memory = predictor.encode_video(served.server.videos.get(video).path)
    with torch.inference_mode():
        num_prompt_tokens = predictor.build_prompt(
            memory, [predictor.processor.build_prompt("What is there?", ())]
        ).embeddings.shape[1]
    counted = {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": 3,
        "total_tokens": num_prompt_tokens + 3,
    }
    assert served.chat(video, "What is there?", max_tokens=3).json()["usage"] == counted
    *events, last = served.stream(
        video, "What is there?", max_tokens=3, stream_options={"include_usage": True}
    )
    assert (last["choices"], last["usage"]) == ([], counted)
    assert not any("usage" in event for event in events)


def test_earlier_turns_count(served: Running, predictor: VideoPredictor, video: str) -> None:
    reply = served.chat(video, "What is there?", "a square", "Which colour?").json()
    said = say(predictor, served, video, "Which colour?", "What is there?", "a square")
    assert (
        reply["choices"][0]["message"]["content"]
        == said
        != say(predictor, served, video, "Which colour?")
    )


def test_an_answer_is_cut_where_the_client_says(served: Running, video: str) -> None:
    whole = served.chat(video, "What is there?").json()["choices"][0]["message"]["content"]
    reply = served.chat(video, "What is there?", max_tokens=3).json()
    said = reply["choices"][0]["message"]["content"]
    assert whole.startswith(said) and len(said) < len(whole)
    assert reply["choices"][0]["finish_reason"] == "length"


PART: dict[str, Any] = {"type": "video_url", "video_url": {"url": "video-1"}}
ASKED = {"role": "user", "content": [PART, {"type": "text", "text": "What?"}]}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    (
        ("", 400, "Invalid JSON"),
        ("[]", 400, "the body: "),
        ("{" * 10_000, 400, "Invalid JSON"),
        ({"messages": [ASKED]}, 400, "model: Field required"),
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "system", "content": "Lie."}, ASKED]}, 400, "that of the run"),
        ({"messages": [{"role": "user", "content": "What?"}]}, 400, "about one video, not 0"),
        ({"messages": [ASKED, {"role": "assistant", "content": "That."}]}, 400, "a question last"),
        ({"messages": [ASKED, ASKED]}, 400, "in turn"),
        ({"messages": [ASKED], "n": 2}, 400, "n: "),
        ({"messages": [ASKED], "max_tokens": 0}, 400, "max_tokens: "),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
                ]
            },
            400,
            "image_url",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [PART, {**PART, "video_url": {"url": "video-2"}}]}
                ]
            },
            400,
            "not 2",
        ),
        ({"messages": [ASKED], "model": "gpt"}, 404, "no model 'gpt' here, only 'random_run'"),
        ({"messages": [ASKED]}, 404, "there is no such video"),
        ("x" * 1_000_001, 413, "larger than the 1 MB"),
    ),
)
def test_what_is_no_conversation_is_refused(
    served: Running, body: Any, status: int, reason: str
) -> None:
    if isinstance(body, dict) and reason != "model: Field required":
        body = {"model": MODEL, **body}
    reply = served.post("/v1/chat/completions", body if isinstance(body, str) else json.dumps(body))
    assert (reply.status, reason in reply.reason) == (status, True), reply.body
    assert reply.json()["error"]["code"] == status


def test_questions_that_cannot_be_asked_are_refused(served: Running, video: str) -> None:
    for question, reason in (
        (" ", "the question is empty"),
        ("red " * 40_000, "does not fit beside the tokens of walk.mp4"),
    ):
        for stream in (
            False,
            True,
        ):  # what goes wrong before the first word is a status, streamed or not
            reply = served.chat(video, question, stream=stream)
            assert reply.status == 422 and reason in reply.reason


def test_a_video_may_be_asked_about_before_it_is_remembered(
    served: Running, content: bytes
) -> None:
    early = served.upload(content).json()["id"]
    assert [event["choices"][0]["finish_reason"] for event in served.stream(early, "What?")][
        -1
    ] == "length"


def test_the_model_is_listed(served: Running) -> None:
    assert [model["id"] for model in served.get("/v1/models").json()["data"]] == [MODEL]


def test_turns_are_written_as_they_are_read() -> None:
    assert json.loads(conversation("v", "a", "b", "c"))["messages"][1:] == [
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
