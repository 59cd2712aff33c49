"""Cache of the teacher's responses for one video, kept on disk: `ResponseCache`.

A response is on disk before it is used, so a run that is killed at any moment loses none and its
successor does not request it again.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lit_hour.errors import JsonlError
from lit_hour.io.jsonl import JsonlWriter, read_jsonl


@dataclass(frozen=True)
class Response:
    """A chat completion.

    Attributes:
        text: of the message, unchanged.
        finish_reason: why the server stopped: "stop", "length".
        prompt_tokens: as the server counted them.
        completion_tokens: as the server counted them.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class TokenUsage:
    """Number of responses about a video, over all runs, and the tokens that the servers counted."""

    num_responses: int
    prompt_tokens: int
    completion_tokens: int


class ResponseCache:
    """Responses about one video by the hash of their request, in a JSONL file.

    A context manager that closes the file. Only one process at a time may use the file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            JsonlError: a line is not a response, or the file cannot be read or written.
        """
        self.path = path
        self._responses = dict(
            self._parse(record, number) for number, record in enumerate(read_jsonl(path), start=1)
        )
        self._journal = JsonlWriter(path)

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
        return len(self._responses)

    @property
    def responses(self) -> tuple[Response, ...]:
        """Every response, in the order of arrival."""
        return tuple(self._responses.values())

    @property
    def usage(self) -> TokenUsage:
        """Totals over all responses."""
        responses = self.responses
        return TokenUsage(
            len(responses),
            sum(response.prompt_tokens for response in responses),
            sum(response.completion_tokens for response in responses),
        )

    def get(self, key: str) -> Response | None:
        """Return the response to an earlier request, or None."""
        return self._responses.get(key)

    async def add(self, key: str, response: Response) -> None:
        """Append a response. It is in the file at once, and on disk when this returns.

        Raises:
            JsonlError: the file cannot be written.
        """
        self._journal.write({"key": key, **asdict(response)})
        self._responses[key] = response
        await asyncio.to_thread(self._journal.sync)

    def _parse(self, record: dict[str, Any], number: int) -> tuple[str, Response]:
        try:
            fields = {name: value for name, value in record.items() if name != "key"}
            return record["key"], Response(**fields)
        except (TypeError, KeyError) as error:
            raise JsonlError(
                f"{self.path}: line {number} is not a response ({error}). Delete that line."
            ) from error
