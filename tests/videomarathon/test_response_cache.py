import asyncio
import os
import signal
from pathlib import Path

import pytest

from lit_hour.errors import JournalError
from lit_hour.videomarathon.response_cache import Response, ResponseCache
from tests.helpers.disk import limit_file_size

REPLY = Response("eine Antwort, über\nzwei Zeilen \u2028 und mehr", "stop", 120, 7)


def add(journal: ResponseCache, key: str, reply: Response) -> None:
    asyncio.run(journal.add(key, reply))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    replies = [Response(f"answer {number}", "stop", number, 2) for number in range(5)]
    with ResponseCache(tmp_path / "sub" / "journal.jsonl") as journal:
        for number, reply in enumerate([*replies, REPLY]):
            add(journal, f"key {number}", reply)
    with ResponseCache(journal.path) as again:
        assert again.responses == (*replies, REPLY)
        assert again.get("key 5") == REPLY
        assert again.get("key 6") is None


def test_an_answer_is_in_the_file_when_it_is_added(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    child = os.fork()
    if child == 0:
        add(ResponseCache(path), "key", REPLY)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with ResponseCache(path) as journal:
        assert journal.get("key") == REPLY


@pytest.mark.parametrize(
    "torn",
    [b"{", b'{"key": "c", "text": "half of', b'{"key": "c"}', b"\x00\x00\x00", "ü".encode()[:1]],
)
def test_a_torn_last_line_is_taken_away_and_nothing_else(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with ResponseCache(path) as journal:
        add(journal, "a", REPLY)
        add(journal, "b", REPLY)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with ResponseCache(path) as journal:
        assert path.read_bytes() == whole
        add(journal, "c", REPLY)
    with ResponseCache(path) as journal:
        assert [journal.get(key) for key in "abc"] == [REPLY] * 3


@pytest.mark.parametrize("damage", [b"{}", b'{"key": "a", "words": "b"}'])
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with ResponseCache(path) as journal:
        add(journal, "a", REPLY)
    path.write_bytes(path.read_bytes() + damage + b"\n" + path.read_bytes())
    with pytest.raises(JournalError, match=r"journal\.jsonl: line 2 is no answered request"):
        ResponseCache(path)


@pytest.mark.parametrize("room_bytes", [0, 1, 50])
def test_a_full_disk_is_reported_and_spoils_no_line(tmp_path: Path, room_bytes: int) -> None:
    path = tmp_path / "journal.jsonl"
    with ResponseCache(path) as journal:
        add(journal, "a", REPLY)
        with (
            limit_file_size(path.stat().st_size + room_bytes),
            pytest.raises(JournalError, match=r"journal\.jsonl"),
        ):
            add(journal, "b", REPLY)
        assert journal.get("b") is None
        add(journal, "c", REPLY)
    with ResponseCache(path) as journal:
        assert [journal.get(key) for key in "abc"] == [REPLY, None, REPLY]
