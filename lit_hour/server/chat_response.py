"""Responses to chat completion requests: in one piece, or as server-sent events (SSE).

They have a field "lit_hour" beside those of OpenAI. Entry points: `Completion` and `EventStream`.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import HTTPException
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lit_hour.errors import InputError
from lit_hour.inference.answer import Answer, TokenLogprob
from lit_hour.inference.attribution import Attribution
from lit_hour.server.generation import Heartbeat, StreamEvent
from lit_hour.server.http_errors import error_body, input_error_status

MIN_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True)
class Completion:
    """The fields that all chunks of one response share."""

    id: str
    created: int
    model: str

    @classmethod
    def begin(cls, model: str) -> Completion:
        """Return a new completion with a random id."""
        return cls(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), model)

    def full(
        self, answers: Sequence[Answer], attribution: Attribution | None, has_logprobs: bool
    ) -> dict[str, Any]:
        """Return a response that is not streamed.

        Args:
            answers: in the order of their index.
            attribution: of the only answer, if it is wanted.
            has_logprobs: whether log-probabilities are wanted; an empty answer has a list of none.
        """
        extension = _extension(answers[0])
        if attribution is not None:
            extension["evidence"] = evidence_fields(attribution)
        choices = []
        for answer in answers:
            message = {"role": "assistant", "content": answer.text}
            choice = {
                "index": answer.index,
                "message": message,
                "finish_reason": answer.finish_reason,
            }
            if has_logprobs:
                choice["logprobs"] = _logprob_fields(answer.logprobs)
            choices.append(choice)
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": _usage(answers),
            "lit_hour": extension,
        }

    def chunk(
        self, delta: dict[str, str], index: int = 0, logprobs: Sequence[TokenLogprob] = ()
    ) -> dict[str, Any]:
        """Return a chunk of a streamed response, with a part of one answer."""
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": None}
        if logprobs:
            choice["logprobs"] = _logprob_fields(logprobs)
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def end_chunk(self, answer: Answer) -> dict[str, Any]:
        """Return the chunk that ends one answer."""
        choice = {"index": answer.index, "delta": {}, "finish_reason": answer.finish_reason}
        head = self._head("chat.completion.chunk")
        return {**head, "choices": [choice], "lit_hour": _extension(answer)}

    def final_chunk(self, **fields: Any) -> dict[str, Any]:
        """Return a chunk without text, which follows the answers in a stream."""
        return {**self._head("chat.completion.chunk"), "choices": [], **fields}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


async def stream_events(
    completion: Completion,
    first: StreamEvent,
    events: AsyncIterator[StreamEvent],
    num_choices: int,
    include_usage: bool,
) -> AsyncIterator[str]:
    """Yield a response as server-sent events; an error ends it as an event of its own."""
    for index in range(num_choices):
        yield _format_event(completion.chunk({"role": "assistant", "content": ""}, index))
    answers: list[Answer] = []
    event: StreamEvent | None = first
    try:
        while event is not None:
            if isinstance(event, Heartbeat):
                yield ": heartbeat\n\n"
            elif isinstance(event, Answer):
                answers.append(event)
                yield _format_event(completion.end_chunk(event))
                if include_usage and len(answers) == num_choices:
                    yield _format_event(completion.final_chunk(usage=_usage(answers)))
            elif isinstance(event, Attribution):
                extension = {"evidence": evidence_fields(event)}
                yield _format_event(completion.final_chunk(lit_hour=extension))
            elif event.text or event.logprobs:
                delta = {"content": event.text}
                yield _format_event(completion.chunk(delta, event.index, event.logprobs))
            event = await anext(events, None)
    except HTTPException as error:
        yield _format_event(error_body(error.status_code, str(error.detail)))
    except InputError as error:
        yield _format_event(error_body(input_error_status(error), str(error)))
    yield "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream of server-sent events that closes an exit stack when it ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the last one, or until the client disconnects."""
        async with self._stack:
            await super().__call__(scope, receive, send)


async def collect(events: AsyncIterator[StreamEvent]) -> tuple[list[Answer], Attribution | None]:
    """Return the answers by index, and the attribution if there is one, at the end of a stream."""
    answers: list[Answer] = []
    attribution: Attribution | None = None
    async for event in events:
        if isinstance(event, Answer):
            answers.append(event)
        elif isinstance(event, Attribution):
            attribution = event
    return sorted(answers, key=lambda answer: answer.index), attribution


def evidence_fields(attribution: Attribution) -> dict[str, Any]:
    """Return an attribution as clients get it: moments, and the curve over the video."""
    return {
        "moments": [asdict(moment) for moment in attribution.moments],
        "curve": [(round(seconds, 3), round(share, 4)) for seconds, share in attribution.curve],
    }


def _format_event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, allow_nan=False)}\n\n"


def _usage(answers: Sequence[Answer]) -> dict[str, int]:
    num_prompt_tokens = answers[0].num_prompt_tokens
    num_new_tokens = sum(answer.num_new_tokens for answer in answers)
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_new_tokens,
        "total_tokens": num_prompt_tokens + num_new_tokens,
    }


def _extension(answer: Answer) -> dict[str, Any]:
    return {
        "num_frames": answer.num_frames,
        "num_memory_tokens": answer.num_memory_tokens,
        "seconds": answer.seconds,
    }


def _logprob_fields(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    entries = [
        {
            **_token_fields(token.text, token.logprob),
            "top_logprobs": [_token_fields(text, logprob) for text, logprob in token.top],
        }
        for token in logprobs
    ]
    return {"content": entries, "refusal": None}


def _token_fields(text: str, logprob: float) -> dict[str, Any]:
    is_complete = "\ufffd" not in text  # else a part of a character: its bytes are not known
    return {
        "token": text,
        "logprob": max(logprob, MIN_LOGPROB),
        "bytes": list(text.encode()) if is_complete else None,
    }
