"""Append-only JSONL files that survive `kill -9`: no record is ever half a line.

A line is written by a single system call.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from lit_hour.errors import JsonlError


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file in order.

    An incomplete last line is ignored, and so is a missing file.

    Raises:
        JsonlError: the file cannot be read, or a line is not a record.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise JsonlError(f"Cannot read {path}: {error.strerror}.") from error
    complete = content[: content.rfind(b"\n") + 1]
    return [
        _parse(line, f"{path}: line {number}")
        for number, line in enumerate(complete.splitlines(), start=1)
    ]


class JsonlWriter:
    """Appends records to a file that no other process writes."""

    def __init__(self, path: Path) -> None:
        """Open or create a file; an incomplete last line is removed.

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
            raise JsonlError(f"Cannot use {path}: {error.strerror}.") from error

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
        """Append a record. It is in the file when this returns, and on disk after `sync`.

        Raises:
            JsonlError: it cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise JsonlError(f"Cannot write a record to {self.path}: {error.strerror}.") from error
        if written < len(
            line
        ):  # the disk is full: remove the partial line, or the next one joins it
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise JsonlError(
                f"Cannot write a record to {self.path}: {written} of {len(line)} bytes were"
                " written. Free disk space."
            )

    def sync(self) -> None:
        """Flush all records to the disk, in case the machine fails."""
        os.fsync(self._file)


def _parse(line: bytes, location: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise JsonlError(f"{location} is not valid JSON: {error}. Delete the line.") from error
    if not isinstance(record, dict):
        raise JsonlError(f"{location} is not a record but {line[:60]!r}. Delete the line.")
    return record
