import os
import signal
from pathlib import Path

import pytest

from lit_hour.errors import JsonlError
from lit_hour.io.jsonl import JsonlWriter, read_jsonl
from tests.helpers.disk import limit_file_size

RECORD = {"id": "a", "said": "eine Antwort, über\nzwei Zeilen \u2028 und mehr"}


def test_written_records_are_read_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "journal.jsonl"
    assert read_jsonl(path) == []
    for _ in range(2):
        with JsonlWriter(path) as journal:
            journal.write(RECORD)
            journal.sync()
    assert read_jsonl(path) == [RECORD, RECORD]


def test_record_is_in_the_file_after_write(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        JsonlWriter(tmp_path / "journal.jsonl").write(RECORD)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert read_jsonl(tmp_path / "journal.jsonl") == [RECORD]


@pytest.mark.parametrize(
    "torn",
    [b"{", b'{"id": "c", "said": "half of', b'{"id": "c"}', b"\x00\x00\x00", "ü".encode()[:1]],
)
def test_incomplete_last_line_is_removed(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    JsonlWriter(path).write(RECORD)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert read_jsonl(path) == [RECORD]
    with JsonlWriter(path) as journal:
        assert path.read_bytes() == whole
        journal.write(RECORD)
    assert read_jsonl(path) == [RECORD, RECORD]


@pytest.mark.parametrize("damage", [b"no json", b"[1]", b"\xff"])
def test_corrupt_line_is_rejected(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    JsonlWriter(path).write(RECORD)
    path.write_bytes(path.read_bytes() + damage + b"\n" + path.read_bytes())
    with pytest.raises(JsonlError, match=r"journal\.jsonl: line 2 is not"):
        read_jsonl(path)


@pytest.mark.parametrize("room_bytes", [0, 1, 30])
def test_full_disk_is_reported_and_leaves_complete_lines(tmp_path: Path, room_bytes: int) -> None:
    path = tmp_path / "journal.jsonl"
    with JsonlWriter(path) as journal:
        journal.write(RECORD)
        with (
            limit_file_size(path.stat().st_size + room_bytes),
            pytest.raises(JsonlError, match=r"journal\.jsonl"),
        ):
            journal.write({"id": "b"} | {"said": "x" * 50})
        journal.write(RECORD)
    assert read_jsonl(path) == [RECORD, RECORD]
