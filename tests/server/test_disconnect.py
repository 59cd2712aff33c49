"""Clients that disconnect, stall or are too many: others are served, and resources are freed."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.config.schema import GenerationConfig
from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from tests.server.factories import make_clip
from tests.server.helpers import RunningServer, chat_body, run_server, wait_for

MAX_NEW_TOKENS = 1_000_000  # answers take longer than the tests


@pytest.fixture
def slow_server(predictor: VideoPredictor, folder: Path) -> Iterator[RunningServer]:
    """A server that runs two answers at a time, and none of them ends."""
    generation = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS)
    config = replace(predictor.config, generation=generation)
    limits = ServerConfig(
        max_concurrent_requests=2,
        max_queue_length=1,
        max_concurrent_uploads=1,
        upload_idle_seconds=1.0,
    )
    slow = VideoPredictor(config, predictor.model, predictor.processor)
    with run_server(slow, limits, [folder]) as server:
        yield server


@pytest.fixture
def slow_video(slow_server: RunningServer, folder: Path) -> str:
    """The id of a video on the slow server that is ready."""
    opened = slow_server.post("/v1/videos/open", (folder / "walk.mp4").as_uri()).json()["id"]
    slow_server.wait_until_finished(opened)
    return opened


def send_request(
    server: RunningServer,
    body: str,
    path: str = "/v1/chat/completions",
    length: int | None = None,
) -> socket.socket:
    """Send a request without reading the response."""
    client = socket.create_connection(("127.0.0.1", server.port))
    length = len(body.encode()) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    client.sendall(f"{head}{body}".encode())
    return client


def num_in_system(server: RunningServer) -> int:
    return server.state.queue.in_system


def uploads_are_gone(server: RunningServer) -> bool:
    names = ("lit_hour_upload_files", "lit_hour_uploads_running")
    return all(server.metric(name) == 0 for name in names)


@pytest.mark.parametrize("stream", (True, False))
def test_generation_stops_when_the_client_disconnects(
    slow_server: RunningServer, slow_video: str, stream: bool
) -> None:
    client = send_request(slow_server, chat_body(slow_video, "What?", stream=stream))
    wait_for(lambda: slow_server.metric("lit_hour_requests_running") == 1)
    client.close()
    wait_for(lambda: num_in_system(slow_server) == 0)
    assert slow_server.metric('lit_hour_generations_total{outcome="cancelled"}') == 1
    num_tokens = slow_server.metric("lit_hour_generated_tokens_total")
    time.sleep(0.3)
    assert slow_server.metric("lit_hour_generated_tokens_total") == num_tokens < MAX_NEW_TOKENS


def test_a_full_queue_answers_429_until_a_client_disconnects(
    slow_server: RunningServer, slow_video: str
) -> None:
    body = chat_body(slow_video, "What?", stream=True)
    clients = [send_request(slow_server, body) for _ in range(3)]
    wait_for(lambda: num_in_system(slow_server) == 3)
    for stream in (True, False):
        response = slow_server.chat(slow_video, "What?", stream=stream)
        assert response.status == 429 and 1 <= int(response.headers["retry-after"]) <= 600
        assert "full with 3 requests" in response.error
    clients.pop().close()  # the waiting client
    wait_for(lambda: num_in_system(slow_server) == 2)
    clients.append(send_request(slow_server, body))
    wait_for(lambda: num_in_system(slow_server) == 3)
    assert slow_server.metric("lit_hour_requests_waiting") == 1
    assert slow_server.get("/health").status == 200
    for client in clients:
        client.close()
    wait_for(lambda: num_in_system(slow_server) == 0)


def test_a_client_that_does_not_read_delays_no_other(
    slow_server: RunningServer, slow_video: str
) -> None:
    silent = send_request(slow_server, chat_body(slow_video, "What?", stream=True))
    wait_for(lambda: slow_server.state.queue.running == 1)
    assert slow_server.chat(slow_video, "Which color?", max_tokens=20).status == 200
    upload = slow_server.upload(make_clip(seconds=2.0))
    assert upload.status == 201
    assert slow_server.wait_until_finished(upload.json()["id"])["status"] == "ready"
    assert slow_server.state.queue.running == 1
    silent.close()


@pytest.mark.parametrize("behavior", ("disconnects", "stalls", "drips"))
def test_an_incomplete_upload_is_deleted(slow_server: RunningServer, behavior: str) -> None:
    client = send_request(slow_server, "half", "/v1/videos?name=a.mp4", length=1000)
    wait_for(lambda: slow_server.metric("lit_hour_upload_files") == 1)
    second = slow_server.upload(b"x")
    assert second.status == 429 and "full with 1 uploads" in second.error
    if behavior == "disconnects":
        client.close()
    else:
        for _ in range(5):
            time.sleep(0.3)
            if behavior == "drips":
                with suppress(OSError):
                    client.sendall(b"x")
        assert b"408" in client.recv(100)
    wait_for(lambda: uploads_are_gone(slow_server))
    client.close()


def test_an_endless_upload_is_rejected_at_the_limit(predictor: VideoPredictor) -> None:
    with run_server(predictor, ServerConfig(max_upload_mb=1)) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.settimeout(20)
        client.sendall(
            b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        num_bytes = 0
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        with pytest.raises(OSError):  # the server closes the connection
            while num_bytes < 50_000_000:
                client.sendall(chunk)
                num_bytes += len(chunk)
        client.close()
        assert num_bytes < 50_000_000
        wait_for(lambda: uploads_are_gone(server))
        assert b'route="/v1/videos",status="413"' in server.get("/metrics").body


def test_a_deleted_video_is_not_decoded_further(predictor: VideoPredictor) -> None:
    with run_server(predictor, ServerConfig()) as server:
        num_threads = threading.active_count()
        video = server.upload(make_clip(seconds=600.0)).json()["id"]
        server.request("DELETE", f"/v1/videos/{video}")
        other = server.upload(make_clip(seconds=2.0)).json()["id"]
        assert server.wait_until_finished(other)["status"] == "ready"
        removed = b'lit_hour_videos_total{status="removed"} 1.0'
        wait_for(lambda: removed in server.get("/metrics").body)
        assert server.metric("lit_hour_upload_files") == 1
        assert threading.active_count() <= num_threads + 4


def test_a_store_full_of_unfinished_videos_answers_429(predictor: VideoPredictor) -> None:
    with run_server(predictor, ServerConfig(max_videos=1)) as server:
        server.state.executor.submit(time.sleep, 1.0)  # delays the encoding
        assert server.upload(make_clip(seconds=2.0)).status == 201
        response = server.upload(make_clip(seconds=2.0))
        assert response.status == 429 and int(response.headers["retry-after"]) > 0
        assert "are being encoded" in response.error
        assert server.metric("lit_hour_upload_files") == 1
