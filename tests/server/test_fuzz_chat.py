"""Invalid chat requests: each gets a 4xx with a reason, memory stays flat, no file is left."""

import base64
import json
import random
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from tests.server.helpers import MODEL, RunningServer, run_server

USER = {"role": "user", "content": "What?"}


@pytest.fixture(scope="module")
def strict(predictor: VideoPredictor) -> Iterator[RunningServer]:
    limits = ServerConfig(
        max_request_mb=4, max_upload_mb=2, upload_idle_seconds=1.0, max_concurrent_uploads=2
    )
    with run_server(predictor, limits) as server:
        yield server


def check_rejected(server: RunningServer, body: Any) -> str:
    text = body if isinstance(body, str | bytes) else json.dumps({"model": MODEL, **body})
    response = server.post("/v1/chat/completions", text)
    assert 400 <= response.status < 500 and len(response.error) >= 20, (text[:200], response)
    return response.error


def send_endlessly(server: RunningServer, chunk: bytes) -> bytes:
    """Send a body in chunks until the server answers, and return the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        client.settimeout(0.02)
        received = b""
        deadline = time.monotonic() + 20
        while b"}}" not in received and time.monotonic() < deadline:
            try:
                if chunk:
                    client.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                received += client.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
        return received


def test_long_conversations_and_deep_structures_are_refused(strict: RunningServer) -> None:
    assert "has 10000 items" in check_rejected(strict, {"messages": [USER] * 10_000})
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    for body in (
        {"messages": [{"role": "user", "content": deep}]},
        {"messages": deep},
        {"messages": [USER], "lit_hour": deep},
        {"messages": [USER], "metadata": {}, "temperature": deep},
        {"messages": [USER], "stop": ["x" * 100_000]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 20_000}] * 2},
        b'{"a":' * 50_000,
        b"[" * 200_000,
        b'{"model": "m", "messages": ' + b"9" * 10_000 + b"}",
    ):
        check_rejected(strict, body)


def test_schema_bombs_are_refused(strict: RunningServer) -> None:
    """Without llguidance all schemas are; with it those that are too large or too deep."""
    for schema in (
        {"enum": [str(number) for number in range(20_000)]},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"type": "no such type"},
        {"type": "object", "properties": {str(n): {"type": "string"} for n in range(20_000)}},
        {"type": "string", "pattern": "(" * 5000},
    ):
        wrapper = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        body = {"messages": [USER], "response_format": wrapper}
        assert "JSON" in check_rejected(strict, body)


@pytest.mark.slow
def test_a_body_that_never_ends_is_cut_off(strict: RunningServer) -> None:
    big, slow = (send_endlessly(strict, chunk) for chunk in (b"x" * 50_000, b""))
    assert b" 413 " in big.split(b"\r\n")[0] and b"larger than 4 MB" in big
    assert b" 408 " in slow.split(b"\r\n")[0] and b"sent too little" in slow
    assert strict.metric("lit_hour_uploads_running") == 0
    assert list(strict.state.upload_dir.iterdir()) == []


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@pytest.mark.slow
def test_large_invalid_requests_leave_no_memory_and_no_file(strict: RunningServer) -> None:
    noise = base64.b64encode(random.Random(0).randbytes(2_500_000)).decode()
    kinds = ("video_url", "image_url")

    def refuse(number: int) -> None:
        kind = kinds[number % 2]
        part = {"type": kind, kind: {"url": f"data:{kind[:5]}/x;base64,{noise}"}}
        check_rejected(strict, {"messages": [{"role": "user", "content": [part]}]})

    for number in range(40):  # until the allocator has the memory that such requests take
        refuse(number)
    before = resident_megabytes()
    for number in range(40):
        refuse(number)
    assert resident_megabytes() < before + 30
    assert list(strict.state.upload_dir.iterdir()) == []
    assert len(strict.state.videos) == 0


@pytest.mark.slow
def test_random_changes_of_a_request_do_not_crash_the_server(strict: RunningServer) -> None:
    generator = random.Random(0)
    url = "data:image/png;base64,iVBORw0KGgo="
    content = [{"type": "text", "text": "A?"}, {"type": "image_url", "image_url": {"url": url}}]
    request = {
        **{"model": MODEL, "messages": [USER, {"role": "user", "content": content}], "n": 1},
        **{"temperature": 0.5, "top_p": 0.9, "stop": ["a"], "logprobs": True, "seed": 1},
        **{"response_format": {"type": "text"}, "stream_options": {"include_usage": True}},
    }
    original = json.dumps(request).encode()
    for _ in range(300):
        body = bytearray(original)
        for _ in range(generator.randint(1, 5)):
            position = generator.randrange(len(body))
            match generator.randrange(3):
                case 0:
                    body[position] = generator.randrange(256)
                case 1:
                    del body[position : position + generator.randint(1, 20)]
                case _:
                    body[position:position] = original[position : position + 30]
        response = strict.post("/v1/chat/completions", bytes(body))
        assert response.status < 500, (bytes(body), response)
        assert response.status == 200 or len(response.error) >= 20
    assert strict.get("/health").status == 200
    assert list(strict.state.upload_dir.iterdir()) == []
