"""OpenAI's chat completions: a conversation about one video in, the next answer out, whole or streamed (SSE).

The video is a content part, `{"type": "video_url", "video_url": {"url": ...}}`, with the id of a video that was brought, or a
`file:///` path under an allowed folder. Beside OpenAI's fields a reply has "lit_hour": the evidence, and what was seen.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.types import Receive, Scope, Send

from lit_hour.errors import InputError
from lit_hour.inference.predictor import Answer
from lit_hour.server.generation import Completed, Heartbeat, StreamEvent
from lit_hour.server.http_errors import HTTPRefusal
from lit_hour.types import Message

MAX_BODY_BYTES = 1_000_000


class TextPart(BaseModel):
    """Words."""

    type: Literal["text"]
    text: str


class VideoUrl(BaseModel):
    """Where a video is."""

    url: str


class VideoPart(BaseModel):
    """A video."""

    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | VideoPart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[Part]

    def text(self) -> str:
        """Its words."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    def urls(self) -> list[str]:
        """Its videos."""
        parts = [] if isinstance(self.content, str) else self.content
        return [part.video_url.url for part in parts if isinstance(part, VideoPart)]


class StreamOptions(BaseModel):
    """What else a stream says."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is understood of a request; fields that steer sampling do nothing, as the likeliest token is always taken."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    def url(self) -> str:
        """The one video that is talked about.

        Raises:
            RefusedError: 400, there is none, or there are several.
        """
        urls = {url for message in self.messages for url in message.urls()}
        if len(urls) != 1:
            raise HTTPRefusal(
                400,
                f"a conversation is about one video, not {len(urls)}: give it as a part of type video_url",
            )
        return urls.pop()

    def turns(self) -> tuple[str, list[Message]]:
        """The question, and the questions and answers before it.

        Raises:
            RefusedError: 400, questions and answers do not alternate.
        """
        roles = ["user" if place % 2 == 0 else "assistant" for place in range(len(self.messages))]
        if [message.role for message in self.messages] != roles or roles[-1] != "user":
            raise HTTPRefusal(
                400,
                "messages have to be questions of the user and answers in turn, a question last",
            )
        *history, question = (Message(message.role, message.text()) for message in self.messages)
        return question.text, history


def parse_chat(body: bytes) -> ChatRequest:
    """Read a request.

    Raises:
        RefusedError: 400, it is none, with what is wrong with it.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        reasons = [
            f"{'.'.join(map(str, each['loc'])) or 'the body'}: {each['msg']}" for each in found[:5]
        ]
        if any(each["loc"][-1:] == ("role",) for each in found):
            reasons.append("the system message is that of the run (text.system_prompt)")
        raise HTTPRefusal(400, "; ".join(reasons)) from error


@dataclass(frozen=True)
class Completion:
    """What all parts of one reply have in common."""

    id: str
    created: int
    model: str

    @classmethod
    def begin(cls, model: str) -> Completion:
        """A new reply."""
        return cls(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), model)

    def full(self, answered: Completed) -> dict[str, Any]:
        """A reply in one piece."""
        message = {"role": "assistant", "content": answered.answer.text}
        choice = {"index": 0, "message": message, "finish_reason": answered.answer.finish_reason}
        extension = {"usage": _usage(answered.answer), "lit_hour": _extension(answered)}
        return {**self._head("chat.completion"), "choices": [choice], **extension}

    def chunk(
        self, delta: dict[str, str], ending: str | None = None, **extension: Any
    ) -> dict[str, Any]:
        """A piece of a reply that is streamed."""
        choice = {"index": 0, "delta": delta, "finish_reason": ending}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **extension}

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The last piece of a stream that is to say how many tokens there were."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(answer)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


async def write_events(
    completion: Completion, happenings: AsyncIterator[StreamEvent], options: StreamOptions
) -> AsyncIterator[str]:
    """The reply as server-sent events."""
    yield _event(completion.chunk({"role": "assistant", "content": ""}))
    try:
        async for happening in happenings:
            if isinstance(happening, Heartbeat):
                yield ": waiting\n\n"
            elif isinstance(happening, Completed):
                yield _event(
                    completion.chunk(
                        {}, happening.answer.finish_reason, lit_hour=_extension(happening)
                    )
                )
                if options.include_usage:
                    yield _event(completion.usage(happening.answer))
            elif happening:
                yield _event(completion.chunk({"content": happening}))
    except HTTPRefusal as refusal:
        yield _event(refusal.body())
    except InputError as error:
        yield _event(HTTPRefusal(422, str(error)).body())
    yield "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """Events to a client, and what is to be closed when they are sent or the client has left."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        async with self._stack:
            await super().__call__(scope, receive, send)


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, allow_nan=False)}\n\n"


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.num_prompt_tokens,
        "completion_tokens": answer.num_new_tokens,
        "total_tokens": answer.num_prompt_tokens + answer.num_new_tokens,
    }


def _extension(answered: Completed) -> dict[str, Any]:
    answer, evidence = answered.answer, answered.attribution
    return {
        "evidence": {
            "moments": [asdict(moment) for moment in evidence.moments],
            "curve": _rounded(evidence.curve),
        },
        "num_frames": answer.num_frames,
        "num_memory_tokens": answer.num_memory_tokens,
        "seconds": answer.seconds,
    }


def _rounded(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(seconds, 3), round(value, 4)) for seconds, value in curve]
