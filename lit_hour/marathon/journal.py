"""Every answered request of a video: written to disk before anything is made of it, read back when a run goes on.

A journal is a file of JSON lines. A line is written by one call of the system, before anything else happens, so that a run
that is killed at any moment has lost no answer that it had; then the disk is waited for, in case the machine fails.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from lit_hour.errors import TeacherError


@dataclass(frozen=True)
class Reply:
    """What a server answered: its words as they came, why it stopped, and the tokens that it counted."""

    text: str
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Asked:
    """How much was asked about a video, over all runs; tokens as the servers counted them."""

    num_answers: int
    prompt_tokens: int
    answer_tokens: int


class Journal:
    """The answers of one video by the hash of what was asked. One process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one. A last line that was not finished is taken away.

        Raises:
            TeacherError: a line is no answer, or the file cannot be read or written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            self._replies = dict(self._parse(line, number) for number, line in enumerate(whole.splitlines(), start=1))
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._file, len(whole))
        except OSError as error:
            raise TeacherError(f"{path} cannot be used as a journal: {error}") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def replies(self) -> tuple[Reply, ...]:
        """Every answer, in the order in which they came."""
        return tuple(self._replies.values())

    @property
    def asked(self) -> Asked:
        """How much it holds."""
        replies = self.replies
        return Asked(len(replies), sum(each.prompt_tokens for each in replies), sum(each.answer_tokens for each in replies))

    def find(self, key: str) -> Reply | None:
        """The answer to a request that was made before."""
        return self._replies.get(key)

    async def add(self, key: str, reply: Reply) -> None:
        """Write an answer down. It is in the file at once, and on the disk when this returns.

        Raises:
            TeacherError: it cannot be written.
        """
        line = json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise TeacherError(f"{self.path}: an answer cannot be written: {error}") from error
        if written < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)  # or the next line would hang on to half a one
            raise TeacherError(f"{self.path}: the disk took {written} of {len(line)} bytes of an answer; make room on it")
        self._replies[key] = reply
        await asyncio.to_thread(os.fsync, self._file)

    def _parse(self, line: bytes, number: int) -> tuple[str, Reply]:
        try:
            record = json.loads(line)
            return record.pop("key"), Reply(**record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TeacherError(f"{self.path}: line {number} is no answered request ({error}); delete that line") from error
