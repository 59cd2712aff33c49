"""Evidence for an answer: computed on request only, after the answer, cancelled with its client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import HTTPException

from lit_hour.inference.attribution import attribute_answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.chat_response import evidence_fields
from lit_hour.server.generation import AnsweredQuestion, RecentAnswers
from lit_hour.types import Conversation, Message
from tests.inference.helpers import CONFIG, make_predictor
from tests.server.helpers import RunningServer, chat_body, run_server, wait_for

QUESTION = "What do you see?"
EVIDENCE = {"lit_hour": {"evidence": True}}


class BackwardPasses:
    """Counts what autograd saves and reads on the model thread of a server.

    Attributes:
        num_saved: tensors saved for a backward pass.
        num_read: saved tensors that a backward pass used.
        started: set at the beginning of a backward pass.
        may_continue: a backward pass waits for it.
        delay_seconds: of each use of a saved tensor.
    """

    def __init__(self, server: RunningServer) -> None:
        self.num_saved = self.num_read = 0
        self.started, self.may_continue = threading.Event(), threading.Event()
        self.may_continue.set()
        self.delay_seconds = 0.0
        self._executor = server.state.executor
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._save, self._read)

    def __enter__(self) -> BackwardPasses:
        self._executor.submit(self._hooks.__enter__).result()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_continue.set()
        self._executor.submit(self._hooks.__exit__, None, None, None).result()

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        self.num_saved += 1
        return tensor

    def _read(self, tensor: torch.Tensor) -> torch.Tensor:
        self.num_read += 1
        self.started.set()
        assert self.may_continue.wait(30)
        time.sleep(self.delay_seconds)
        return tensor


@pytest.fixture
def passes(server: RunningServer) -> Iterator[BackwardPasses]:
    with BackwardPasses(server) as passes:
        yield passes


def get_evidence(server: RunningServer, completion: str) -> Any:
    return server.get(f"/v1/chat/completions/{completion}/evidence")


def expected_evidence(
    predictor: VideoPredictor, server: RunningServer, video: str, answer: str
) -> Any:
    memory = predictor.encode_video(server.state.videos.get(video).path)
    fields = evidence_fields(attribute_answer(predictor, memory, QUESTION, answer))
    return {"moments": fields["moments"], "curve": [list(point) for point in fields["curve"]]}


def text_of(completion: dict[str, Any]) -> str:
    return completion["choices"][0]["message"]["content"]


def test_answers_run_no_backward_pass_and_evidence_does(
    server: RunningServer, video: str, passes: BackwardPasses
) -> None:
    completion = server.chat(video, QUESTION).json()
    *_, last = server.stream(video, QUESTION)
    assert "evidence" not in completion["lit_hour"] and "evidence" not in last["lit_hour"]
    assert passes.num_saved == passes.num_read == 0
    assert get_evidence(server, completion["id"]).status == 200
    assert passes.num_saved > 0 and passes.num_read > 0


def test_evidence_comes_in_the_response_in_the_stream_and_afterwards(
    server: RunningServer, predictor: VideoPredictor, video: str
) -> None:
    completion = server.chat(video, QUESTION, **EVIDENCE).json()
    expected = expected_evidence(predictor, server, video, text_of(completion))
    assert completion["lit_hour"]["evidence"] == expected
    assert len(expected["curve"]) == completion["lit_hour"]["num_frames"]
    assert expected["moments"]
    for moment in expected["moments"]:
        assert 0 <= moment["start_seconds"] < moment["end_seconds"] <= 4.1
    response = get_evidence(server, completion["id"]).json()
    assert response["id"] == completion["id"] and response["evidence"] == expected
    *_, last = server.stream(video, QUESTION, **EVIDENCE)
    assert last["choices"] == [] and last["lit_hour"] == {"evidence": expected}
    assert get_evidence(server, last["id"]).json()["evidence"] == expected


def test_evidence_for_a_later_question_counts_the_history(
    server: RunningServer, video: str
) -> None:
    first = server.chat(video, QUESTION, **EVIDENCE).json()
    later = server.chat(video, QUESTION, text_of(first), QUESTION, **EVIDENCE).json()
    assert later["lit_hour"]["evidence"] == get_evidence(server, later["id"]).json()["evidence"]
    assert later["lit_hour"]["evidence"] != first["lit_hour"]["evidence"]


def test_the_answer_is_complete_before_its_evidence_begins(
    server: RunningServer, video: str, passes: BackwardPasses
) -> None:
    passes.may_continue.clear()
    options = {"stream_options": {"include_usage": True}, **EVIDENCE}
    events = server.stream(video, QUESTION, **options)
    while (event := next(events))["choices"][0]["finish_reason"] is None:
        pass
    assert event["lit_hour"]["num_frames"] > 0
    assert "usage" in next(events)
    assert passes.started.wait(30)
    passes.may_continue.set()
    (last,) = events
    assert "evidence" in last["lit_hour"]


def test_other_answers_are_generated_between_two_layers(folder: Path) -> None:
    llm = replace(CONFIG.model.llm, num_layers=20)
    predictor = make_predictor(replace(CONFIG, model=replace(CONFIG.model, llm=llm)))
    url = (folder / "walk.mp4").as_uri()
    num_read_at_answer: list[int] = []
    with run_server(predictor, allowed_dirs=[folder]) as server:
        completion = server.chat(url, QUESTION, max_tokens=1).json()["id"]
        with BackwardPasses(server) as passes, ThreadPoolExecutor(2) as clients:
            passes.delay_seconds = 0.001
            passes.may_continue.clear()
            evidence = clients.submit(get_evidence, server, completion)
            assert passes.started.wait(30)
            answer = clients.submit(server.chat, url, QUESTION, max_tokens=1)
            answer.add_done_callback(lambda _: num_read_at_answer.append(passes.num_read))
            wait_for(lambda: server.state.queue.running == 2)
            passes.may_continue.set()
            assert answer.result().status == evidence.result().status == 200
            assert num_read_at_answer[0] < passes.num_read / 2


@pytest.mark.parametrize("kind", ("get", "stream", "full"))
def test_evidence_is_cancelled_with_its_client(
    server: RunningServer, video: str, passes: BackwardPasses, kind: str
) -> None:
    completion = server.chat(video, QUESTION).json()["id"]
    get_evidence(server, completion)
    num_read = passes.num_read  # of a complete attribution
    cancelled = 'lit_hour_attributions_total{outcome="cancelled"}'
    before = b'outcome="cancelled"' in server.get("/metrics").body and server.metric(cancelled)
    passes.num_read = 0
    passes.started.clear()
    passes.may_continue.clear()
    client = socket.create_connection(("127.0.0.1", server.port))
    if kind == "get":
        path, body, method = f"/v1/chat/completions/{completion}/evidence", "", "GET"
    else:
        path, method = "/v1/chat/completions", "POST"
        body = chat_body(video, QUESTION, stream=kind == "stream", **EVIDENCE)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(f"{head}{body}".encode())
    assert passes.started.wait(30)
    client.close()
    wait_for(lambda: server.state.queue.in_system == 0)
    passes.may_continue.set()
    server.state.executor.submit(int).result()  # after the step that was running
    assert 0 < passes.num_read < num_read
    assert server.metric(cancelled) == before + 1


def test_unknown_answers_and_deleted_videos_have_no_evidence(
    server: RunningServer, clip: bytes
) -> None:
    response = get_evidence(server, "chatcmpl-0")
    assert response.status == 404 and "no answer 'chatcmpl-0'" in response.error
    video = server.upload(clip).json()["id"]
    completion = server.chat(video, QUESTION).json()["id"]
    server.request("DELETE", f"/v1/videos/{video}")
    response = get_evidence(server, completion)
    assert response.status == 404 and "no such video" in response.error


def test_evidence_that_needs_too_much_memory_is_refused(
    predictor: VideoPredictor, folder: Path
) -> None:
    with run_server(predictor, allowed_dirs=[folder], max_evidence_gb=1e-5) as server:
        url = (folder / "walk.mp4").as_uri()
        completion = server.chat(url, QUESTION).json()
        response = get_evidence(server, completion["id"])
        assert response.status == 422 and "serving.max_evidence_gb=1e-05" in response.error
        *_, answer, error = server.stream(url, QUESTION, **EVIDENCE)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert "serving.max_evidence_gb" in error["error"]["message"]


def test_evidence_of_the_oldest_answers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(name: str, num_characters: int) -> None:
        conversation = Conversation((Message("user", "x" * (num_characters - 201)),))
        recent.add(name, AnsweredQuestion("video", conversation, "y"))

    monkeypatch.setattr("lit_hour.server.generation.MAX_RECENT_ANSWERS", 3)
    monkeypatch.setattr("lit_hour.server.generation.MAX_RECENT_CHARACTERS", 1_000)
    recent = RecentAnswers()
    for name in "abcd":
        add(name, 210)
    add("e", 705)
    assert recent.get("d").num_characters == 210 and recent.get("e").num_characters == 705
    for name in "abc":
        with pytest.raises(HTTPException, match="no answer"):
            recent.get(name)
