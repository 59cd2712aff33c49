"""Records in, lines of JSON on disk out, and back after kill -9: what was added is there, and half a line never is.

A line is written by one call of the system: a process that is killed at any moment has lost no record that it had added.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from lit_hour.errors import JsonlError


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a journal, in order; a last line that was not finished does not count.

    Raises:
        JsonlError: the file cannot be read, or a line is no record.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise JsonlError(f"{path} cannot be read as a journal ({error.strerror})") from error
    whole = content[: content.rfind(b"\n") + 1]
    return [
        _parse(line, f"{path}: line {number}")
        for number, line in enumerate(whole.splitlines(), start=1)
    ]


class JsonlWriter:
    """A file of records that one process at a time adds to."""

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one. A last line that was not finished is taken away.

        Raises:
            JsonlError: the file cannot be read or written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            content = os.pread(self._file, os.fstat(self._file).st_size, 0)
            os.ftruncate(self._file, content.rfind(b"\n") + 1)
        except OSError as error:
            raise JsonlError(f"{path} cannot be used as a journal ({error.strerror})") from error

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record down: it is in the file when this returns, though the disk may have it later.

        Raises:
            JsonlError: it cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise JsonlError(
                f"{self.path}: a record cannot be written ({error.strerror})"
            ) from error
        if written < len(line):
            os.ftruncate(
                self._file, os.fstat(self._file).st_size - written
            )  # or the next line would hang on to half a one
            raise JsonlError(
                f"{self.path}: the disk took {written} of {len(line)} bytes of a record; make room on it"
            )

    def sync(self) -> None:
        """Wait until the disk has all that was added, in case the machine fails."""
        os.fsync(self._file)


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise JsonlError(f"{place} is no record ({error}); delete that line") from error
    if not isinstance(record, dict):
        raise JsonlError(f"{place} is no record but {line[:60]!r}; delete that line")
    return record
