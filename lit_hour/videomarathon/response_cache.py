"""Every answered request of a video: written to disk before anything is made of it, read back when a run goes on.

A run that is killed at any moment has lost no answer that it had.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lit_hour.errors import JournalError
from lit_hour.io.jsonl import Journal, read_journal


@dataclass(frozen=True)
class Response:
    """What a server answered: its words as they came, why it stopped, and the tokens that it counted."""

    text: str
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class TokenUsage:
    """How much was asked about a video, over all runs; tokens as the servers counted them."""

    num_answers: int
    prompt_tokens: int
    answer_tokens: int


class ResponseCache:
    """The answers of one video by the hash of what was asked, in a journal. One process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        """Open the journal, or begin one.

        Raises:
            JournalError: a line is no answer, or the file cannot be read or written.
        """
        self.path = path
        self._replies = dict(
            self._parse(record, number) for number, record in enumerate(read_journal(path), start=1)
        )
        self._journal = Journal(path)

    def __enter__(self) -> ResponseCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._journal.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def responses(self) -> tuple[Response, ...]:
        """Every answer, in the order in which they came."""
        return tuple(self._replies.values())

    @property
    def usage(self) -> TokenUsage:
        """How much it holds."""
        replies = self.responses
        return TokenUsage(
            len(replies),
            sum(each.prompt_tokens for each in replies),
            sum(each.answer_tokens for each in replies),
        )

    def get(self, key: str) -> Response | None:
        """The answer to a request that was made before."""
        return self._replies.get(key)

    async def add(self, key: str, reply: Response) -> None:
        """Write an answer down. It is in the file at once, and on the disk when this returns.

        Raises:
            JournalError: it cannot be written.
        """
        self._journal.add({"key": key, **asdict(reply)})
        self._replies[key] = reply
        await asyncio.to_thread(self._journal.sync)

    def _parse(self, record: dict[str, Any], number: int) -> tuple[str, Response]:
        try:
            return record["key"], Response(
                **{name: value for name, value in record.items() if name != "key"}
            )
        except (TypeError, KeyError) as error:
            raise JournalError(
                f"{self.path}: line {number} is no answered request ({error}); delete that line"
            ) from error
