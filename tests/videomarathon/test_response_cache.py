"""The cache of responses on disk, after kills, torn writes and a full disk."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from lit_hour.errors import JsonlError
from lit_hour.videomarathon.response_cache import Response, ResponseCache
from tests.helpers.disk import limit_file_size

RESPONSE = Response("eine Antwort, über\nzwei Zeilen \u2028 und mehr", "stop", 120, 7)


def add(cache: ResponseCache, key: str, response: Response) -> None:
    asyncio.run(cache.add(key, response))


def test_responses_are_read_back(tmp_path: Path) -> None:
    responses = [Response(f"answer {number}", "stop", number, 2) for number in range(5)]
    with ResponseCache(tmp_path / "sub" / "responses.jsonl") as cache:
        for number, response in enumerate([*responses, RESPONSE]):
            add(cache, f"key {number}", response)
    with ResponseCache(cache.path) as reopened:
        assert reopened.responses == (*responses, RESPONSE)
        assert reopened.get("key 5") == RESPONSE
        assert reopened.get("key 6") is None


def test_added_response_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    child = os.fork()
    if child == 0:
        add(ResponseCache(path), "key", RESPONSE)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with ResponseCache(path) as cache:
        assert cache.get("key") == RESPONSE


@pytest.mark.parametrize(
    "torn",
    [b"{", b'{"key": "c", "text": "half of', b'{"key": "c"}', b"\x00\x00\x00", "ü".encode()[:1]],
)
def test_torn_last_line_is_removed(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "responses.jsonl"
    with ResponseCache(path) as cache:
        add(cache, "a", RESPONSE)
        add(cache, "b", RESPONSE)
    complete = path.read_bytes()
    path.write_bytes(complete + torn)
    with ResponseCache(path) as cache:
        assert path.read_bytes() == complete
        add(cache, "c", RESPONSE)
    with ResponseCache(path) as cache:
        assert [cache.get(key) for key in "abc"] == [RESPONSE] * 3


@pytest.mark.parametrize("damage", [b"{}", b'{"key": "a", "message": "b"}'])
def test_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "responses.jsonl"
    with ResponseCache(path) as cache:
        add(cache, "a", RESPONSE)
    path.write_bytes(path.read_bytes() + damage + b"\n" + path.read_bytes())
    with pytest.raises(JsonlError, match=r"responses\.jsonl: line 2 is not a response"):
        ResponseCache(path)


@pytest.mark.parametrize("free_bytes", [0, 1, 50])
def test_full_disk_is_reported_and_damages_no_line(tmp_path: Path, free_bytes: int) -> None:
    path = tmp_path / "responses.jsonl"
    with ResponseCache(path) as cache:
        add(cache, "a", RESPONSE)
        with (
            limit_file_size(path.stat().st_size + free_bytes),
            pytest.raises(JsonlError, match=r"responses\.jsonl"),
        ):
            add(cache, "b", RESPONSE)
        assert cache.get("b") is None
        add(cache, "c", RESPONSE)
    with ResponseCache(path) as cache:
        assert [cache.get(key) for key in "abc"] == [RESPONSE, None, RESPONSE]
