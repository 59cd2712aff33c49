"""Answers of many clients in one batch: equal to those alone, fair, and within the memory."""

from __future__ import annotations

import json
import math
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_hour.config.schema import GenerationConfig
from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.language_model import LanguageModel
from lit_hour.server import decode_sandbox, image_sandbox
from tests.server.factories import make_clip
from tests.server.helpers import MODEL, RunningServer, chat_body, run_server, wait_for
from tests.server.malicious_worker import hang

QUESTIONS = ("What?", "Which color is the square beside the star?", "How many are there now?")


class RecordedBatches:
    """Records how many sequences each forward pass reads, and delays it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.delay_seconds = 0.0
        self.may_continue = threading.Event()
        self.may_continue.set()
        read = LanguageModel.read

        def record(llm: LanguageModel, embeddings: Any, caches: Any) -> Any:
            assert self.may_continue.wait(30)
            self.sizes.append(len(caches))
            time.sleep(self.delay_seconds)
            return read(llm, embeddings, caches)

        monkeypatch.setattr(LanguageModel, "read", record)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedBatches]:
    batches = RecordedBatches(monkeypatch)
    yield batches
    batches.may_continue.set()


def open_videos(server: RunningServer, folder: Path) -> list[str]:
    videos = [
        server.post("/v1/videos/open", (folder / name).as_uri()).json()["id"]
        for name in ("walk.mp4", "deep er/ö#1.mp4")
    ]
    videos.append(server.upload(make_clip(seconds=6.0)).json()["id"])
    for video in videos:
        assert server.wait_until_finished(video)["status"] == "ready"
    return videos


def text_of(response: Any) -> str:
    assert response.status == 200, response.error
    return response.json()["choices"][0]["message"]["content"]


def test_answers_in_a_batch_equal_those_alone(
    predictor: VideoPredictor, folder: Path, batches: RecordedBatches
) -> None:
    with run_server(predictor, allowed_dirs=[folder]) as server:
        requests = [(video, text) for video in open_videos(server, folder) for text in QUESTIONS]
        alone = [text_of(server.chat(*request)) for request in requests]
        assert max(batches.sizes) == 1 and len(set(alone)) > 2
        batches.delay_seconds = 0.002
        with ThreadPoolExecutor(len(requests)) as clients:
            together = list(clients.map(lambda one: text_of(server.chat(*one)), requests))
            assert together == alone
        assert max(batches.sizes) > 4
        assert server.metric("lit_hour_kv_cache_bytes") == 0


def test_requests_wait_for_memory_and_are_all_answered(
    predictor: VideoPredictor, folder: Path, batches: RecordedBatches
) -> None:
    """With no memory for two KV caches, or for two video memories, answers come one by one."""
    for small in ({"kv_cache_gb": 1e-9}, {"memory_cache_gb": 1e-9}):
        with run_server(predictor, None, [folder], **small) as server:
            videos = open_videos(server, folder)
            batches.sizes.clear()
            with ThreadPoolExecutor(9) as clients:
                responses = clients.map(lambda video: server.chat(video, "What?"), videos * 3)
                texts = [text_of(response) for response in responses]
            assert texts == texts[:3] * 3
            if "kv_cache_gb" in small:
                assert set(batches.sizes) == {1}
            else:  # questions about one video share its memory
                assert max(batches.sizes) <= 3


def test_a_client_that_hangs_up_leaves_the_batch_between_two_tokens(
    predictor: VideoPredictor, folder: Path, batches: RecordedBatches
) -> None:
    generation = GenerationConfig(max_new_tokens=1_000_000)
    endless = VideoPredictor(
        replace(predictor.config, generation=generation), predictor.model, predictor.processor
    )
    with run_server(endless, allowed_dirs=[folder]) as server:
        (video, *_) = open_videos(server, folder)
        batches.delay_seconds = 0.01
        clients = [send_chat(server, video) for _ in range(3)]
        wait_for(lambda: batches.sizes[-1:] == [3])
        clients.pop().close()
        wait_for(lambda: batches.sizes[-1] == 2)
        assert text_of(server.chat(video, "What?", max_tokens=3))
        for client in clients:
            client.close()
        wait_for(lambda: server.state.queue.in_system == 0)
        num_steps = len(batches.sizes)
        server.state.executor.submit(int).result()
        time.sleep(0.1)
        assert len(batches.sizes) <= num_steps + 1
        assert server.metric("lit_hour_kv_cache_bytes") == 0


def send_chat(server: RunningServer, video: str) -> socket.socket:
    """Send a request without reading its response."""
    body = chat_body(video, "What?", stream=True)
    client = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    client.sendall(f"{head}\r\n\r\n{body}".encode())
    return client


def test_a_client_with_many_requests_delays_another_by_one(
    predictor: VideoPredictor, folder: Path, batches: RecordedBatches
) -> None:
    settings = ServerConfig(max_concurrent_requests=1)
    with run_server(predictor, settings, [folder]) as server:
        (video, *_) = open_videos(server, folder)
        body, order = chat_body(video, "What?"), list[str]()

        def ask(client: str) -> None:
            # as a proxy on this machine forwards it
            response = server.post("/v1/chat/completions", body, X_Forwarded_For=client)
            assert response.status == 200
            order.append(client)

        batches.may_continue.clear()
        batches.delay_seconds = 0.005  # so that answers come in the order in which they end
        with ThreadPoolExecutor(7) as clients:
            asked = []
            for client in ["10.0.0.1"] * 6 + ["10.0.0.2"]:
                asked.append(clients.submit(ask, client))
                wait_for(lambda: server.state.queue.in_system == len(asked))
            batches.may_continue.set()
        assert order.index("10.0.0.2") <= 2 and len(order) == 7  # after the one that ran, and one


def test_a_refusal_names_the_seconds_of_the_real_queue(
    predictor: VideoPredictor, folder: Path, batches: RecordedBatches
) -> None:
    settings = ServerConfig(max_wait_seconds=0.5)
    with run_server(predictor, settings, [folder]) as server:
        (video, *_) = open_videos(server, folder)
        batches.delay_seconds = 0.1
        assert server.chat(video, "What?", max_tokens=6).status == 200
        with server.hold_queue(1, max_tokens=6):
            seconds = server.metric("lit_hour_expected_wait_seconds")
            assert seconds > 0.55  # 0.1 s per token
            response = server.chat(video, "What?")
            assert response.status == 429 and "max_wait_seconds=0.5" in response.error
            assert int(response.headers["retry-after"]) == max(1, math.ceil(seconds - 0.5))
            assert server.get("/ready").status == 503
        assert server.chat(video, "What?").status == 200


@pytest.mark.parametrize("kind", ("video", "image"))
def test_a_decoding_process_ends_with_its_client(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(decode_sandbox.decode_worker, "check_video", hang)
    monkeypatch.setattr(image_sandbox.decode_worker, "decode_images", hang)
    before = set(multiprocessing.active_children())
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/x;base64,aGFuZw=="}}
    connection = server.connect()
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
    body = json.dumps({"model": MODEL, "messages": messages})
    connection.request("POST", "/v1/chat/completions", body)
    wait_for(lambda: set(multiprocessing.active_children()) - before)
    connection.close()
    wait_for(lambda: not set(multiprocessing.active_children()) - before)
    files = server.state.upload_dir
    wait_for(lambda: server.metric("lit_hour_uploads_running") == 0)
    assert not [file for file in files.iterdir() if file.read_bytes() == b"hang"]
