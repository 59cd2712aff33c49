"""Clients that leave, dawdle or are too many: others are served, and what they used is free again."""

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
from tests.server.clips import clip
from tests.server.running import Running, conversation, running, wait_for

ENDLESS = 1_000_000  # tokens of an answer


@pytest.fixture(scope="module")
def talker(predictor: VideoPredictor) -> VideoPredictor:
    """A predictor whose answers take longer than the tests."""
    config = replace(predictor.config, generation=GenerationConfig(max_new_tokens=ENDLESS))
    return VideoPredictor(config, predictor.model, predictor.processor)


@pytest.fixture
def endless(talker: VideoPredictor, folder: Path) -> Iterator[Running]:
    limits = ServerConfig(
        max_concurrent_requests=2,
        max_queue_length=1,
        max_concurrent_uploads=1,
        upload_idle_seconds=1.0,
    )
    with running(talker, limits, [folder]) as place:
        yield place


@pytest.fixture
def walk(endless: Running, folder: Path) -> str:
    found = endless.post("/v1/videos/open", (folder / "walk.mp4").as_uri()).json()["id"]
    endless.remembered(found)
    return found


def send_request(
    served: Running, body: str, path: str = "/v1/chat/completions", length: int | None = None
) -> socket.socket:
    """A client that has sent a request and reads nothing."""
    client = socket.create_connection(("127.0.0.1", served.port))
    length = len(body.encode()) if length is None else length
    client.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}".encode()
    )
    return client


def in_line(served: Running) -> int:
    return served.server.queue.in_system


@pytest.mark.parametrize("stream", (True, False))
def test_an_answer_stops_between_two_tokens_when_its_client_leaves(
    endless: Running, walk: str, stream: bool
) -> None:
    client = send_request(endless, conversation(walk, "What?", stream=stream))
    wait_for(lambda: endless.gauge("lit_hour_questions_answered_now") == 1)
    client.close()
    wait_for(lambda: in_line(endless) == 0)
    assert b'lit_hour_answers_total{ending="cancelled"} 1' in endless.get("/metrics").body
    ended = endless.gauge("lit_hour_answer_tokens_total")
    time.sleep(0.3)
    assert endless.gauge("lit_hour_answer_tokens_total") == ended < ENDLESS


def test_too_many_questions_are_answered_429_and_those_who_wait_may_leave(
    endless: Running, walk: str
) -> None:
    body = conversation(walk, "What?", stream=True)
    clients = [send_request(endless, body) for _ in range(3)]
    wait_for(lambda: in_line(endless) == 3)
    for stream in (True, False):
        reply = endless.chat(walk, "What?", stream=stream)
        assert reply.status == 429 and 1 <= int(reply.headers["retry-after"]) <= 600
        assert "3 questions are on their way" in reply.reason
    clients.pop().close()  # the one that waits
    wait_for(lambda: in_line(endless) == 2)
    clients.append(send_request(endless, body))
    wait_for(lambda: in_line(endless) == 3)
    assert endless.get("/health").status == 200
    for client in clients:
        client.close()
    wait_for(lambda: in_line(endless) == 0)


def test_answers_go_on_side_by_side_and_a_client_that_does_not_read_holds_nobody_up(
    endless: Running, walk: str
) -> None:
    silent = send_request(endless, conversation(walk, "What?", stream=True))  # its buffers fill up
    wait_for(lambda: endless.server.queue.running == 1)
    reply = endless.chat(walk, "Which colour?", max_tokens=20)
    assert reply.status == 200
    upload = endless.upload(clip(seconds=2.0))
    assert upload.status == 201 and endless.remembered(upload.json()["id"])["state"] == "remembered"
    assert endless.server.queue.running == 1
    silent.close()


@pytest.mark.parametrize("how", ("leaves", "says nothing", "drips"))
def test_half_an_upload_is_removed_when_its_client_is_not_serious(
    endless: Running, how: str
) -> None:
    client = send_request(endless, "half", "/v1/videos?name=a.mp4", length=1000)
    wait_for(lambda: endless.gauge("lit_hour_upload_files") == 1)
    second = endless.upload(b"x")
    assert second.status == 429 and "1 uploads are on their way" in second.reason
    if how == "leaves":
        client.close()
    else:
        for _ in range(5):
            time.sleep(0.3)
            if how == "drips":
                with suppress(OSError):
                    client.sendall(b"x")
        assert b"408" in client.recv(100)
    wait_for(
        lambda: endless.gauge("lit_hour_upload_files") == endless.gauge("lit_hour_uploads_now") == 0
    )
    client.close()


def test_an_upload_without_an_end_is_refused_at_the_limit(predictor: VideoPredictor) -> None:
    with running(predictor, ServerConfig(max_upload_mb=1)) as place:
        client = socket.create_connection(("127.0.0.1", place.port))
        client.settimeout(20)
        client.sendall(
            b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        sent = 0
        piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        with pytest.raises(OSError):  # the server hangs up
            while sent < 50_000_000:
                client.sendall(piece)
                sent += len(piece)
        client.close()
        assert sent < 50_000_000
        wait_for(
            lambda: place.gauge("lit_hour_upload_files") == place.gauge("lit_hour_uploads_now") == 0
        )
        assert b'route="/v1/videos",status="413"' in place.get("/metrics").body


def test_a_video_that_is_deleted_while_it_is_remembered_stops_being_read(
    predictor: VideoPredictor,
) -> None:
    with running(predictor, ServerConfig()) as place:
        threads = threading.active_count()
        long = clip(seconds=600.0)
        video = place.upload(long).json()["id"]
        place.request("DELETE", f"/v1/videos/{video}")
        again = place.upload(clip(seconds=2.0)).json()["id"]
        assert place.remembered(again)["state"] == "remembered"
        wait_for(
            lambda: place.get("/metrics").body.count(b'lit_hour_videos_total{state="dropped"} 1')
        )
        assert place.gauge("lit_hour_upload_files") == 1 and threading.active_count() <= threads + 4


def test_videos_that_are_all_being_remembered_leave_no_room(predictor: VideoPredictor) -> None:
    with running(predictor, ServerConfig(max_videos=1)) as place:
        place.server.executor.submit(
            time.sleep, 1.0
        )  # the model is busy, so that the video is not remembered too soon
        assert place.upload(clip(seconds=2.0)).status == 201
        reply = place.upload(clip(seconds=2.0))
        assert (
            reply.status == 429
            and int(reply.headers["retry-after"]) > 0
            and "are being remembered" in reply.reason
        )
        assert place.gauge("lit_hour_upload_files") == 1
