"""OpenAI's chat completions: a conversation about one video, answered at once or streamed (SSE).

The video is a content part, `{"type": "video_url", "video_url": {"url": ...}}`, with the id of an
upload or a `file:///` URL in an allowed directory. Responses have a field "lit_hour" beside those
of OpenAI; with `"lit_hour": {"evidence": true}` in the request it holds the attribution of the
answer. Entry point: `create_completion`, the handler of the route.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive, Scope, Send

from lit_hour.errors import InputError
from lit_hour.inference.answer import Answer
from lit_hour.inference.attribution import Attribution
from lit_hour.server.generation import GenerationRequest, Heartbeat, StreamEvent
from lit_hour.server.http_errors import error_body, input_error_status
from lit_hour.server.queueing import cancel_on_disconnect
from lit_hour.server.state import AppState
from lit_hour.server.uploads import read_body
from lit_hour.types import Message

MAX_BODY_BYTES = 1_000_000
MAX_VALIDATION_ERRORS = 5  # in one response


async def create_completion(request: Request, state: AppState) -> Response:
    """Answer one request of the route /v1/chat/completions, in one response or as a stream.

    Raises:
        HTTPException: the request is invalid, or its model or video does not exist.
        InputError: the question does not fit the model.
    """
    body = await read_body(request, MAX_BODY_BYTES, state.settings.upload_idle_seconds)
    chat = parse_chat(body)
    if chat.model != state.model_name:
        raise HTTPException(
            404, f"There is no model {chat.model[:80]!r} here, only {state.model_name!r}."
        )
    question, history = chat.turns()
    video = await state.resolve_video(request, chat.video_url())
    max_new_tokens = chat.max_completion_tokens or chat.max_tokens
    completion = Completion.begin(state.model_name)
    generation = GenerationRequest(
        completion.id, video, question, history, max_new_tokens, chat.lit_hour.evidence
    )
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(state.generation.stream(generation))
        if not chat.stream:
            answer, attribution = await cancel_on_disconnect(request, _collect(events))
            return JSONResponse(completion.full(answer, attribution))
        # errors before the first event become the status of the response
        first = await cancel_on_disconnect(request, anext(events))
        content = stream_events(completion, first, events, chat.stream_options)
        return EventStream(content, stack.pop_all())


async def _collect(events: AsyncIterator[StreamEvent]) -> tuple[Answer, Attribution | None]:
    """Return the answer and the attribution, if there is one, at the end of a stream."""
    answer: Answer | None = None
    attribution: Attribution | None = None
    async for event in events:
        if isinstance(event, Answer):
            answer = event
        elif isinstance(event, Attribution):
            attribution = event
    assert answer is not None, "a stream ends with an answer or an exception"
    return answer, attribution


class TextPart(BaseModel):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class VideoUrl(BaseModel):
    """The id or URL of a video."""

    url: str


class VideoPart(BaseModel):
    """A video part of a message."""

    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | VideoPart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str | list[Part]

    def text(self) -> str:
        """Return the text parts, one per line."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    def video_urls(self) -> list[str]:
        """Return the URLs of the video parts."""
        parts = [] if isinstance(self.content, str) else self.content
        return [part.video_url.url for part in parts if isinstance(part, VideoPart)]


class StreamOptions(BaseModel):
    """Options of a streamed response."""

    include_usage: bool = False


class LitHourOptions(BaseModel):
    """Options beyond OpenAI's; with an unknown one the request is rejected.

    Attributes:
        evidence: attribute the answer to moments of the video after it is generated.
    """

    model_config = ConfigDict(extra="forbid")

    evidence: bool = False


class ChatRequest(BaseModel):
    """The supported fields of a request. Sampling fields are ignored: decoding is greedy."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    lit_hour: LitHourOptions = LitHourOptions()

    def video_url(self) -> str:
        """Return the URL of the video.

        Raises:
            HTTPException: 400, there is no video, or more than one.
        """
        urls = {url for message in self.messages for url in message.video_urls()}
        if len(urls) != 1:
            raise HTTPException(
                400,
                f"A conversation is about one video, but {len(urls)} were given. Give it as a part"
                " of type video_url.",
            )
        return urls.pop()

    def turns(self) -> tuple[str, list[Message]]:
        """Return the question, and the turns before it.

        Raises:
            HTTPException: 400, the turns of user and assistant do not alternate.
        """
        roles = ["assistant" if index % 2 else "user" for index in range(len(self.messages))]
        if [message.role for message in self.messages] != roles or roles[-1] != "user":
            raise HTTPException(
                400, "Messages must alternate between user and assistant, and end with the user."
            )
        *history, question = (Message(message.role, message.text()) for message in self.messages)
        return question.text, history


def parse_chat(body: bytes) -> ChatRequest:
    """Parse and validate the body of a request.

    Raises:
        HTTPException: 400, with the reasons.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        reasons = [
            f"{'.'.join(map(str, detail['loc'])) or 'body'}: {detail['msg']}"
            for detail in errors[:MAX_VALIDATION_ERRORS]
        ]
        if any(detail["loc"][-1:] == ("role",) for detail in errors):
            reasons.append("the system message is that of the run (text.system_prompt)")
        raise HTTPException(400, "; ".join(reasons)) from error


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

    def full(self, answer: Answer, attribution: Attribution | None) -> dict[str, Any]:
        """Return a response that is not streamed."""
        extension = _extension(answer)
        if attribution is not None:
            extension["evidence"] = evidence_fields(attribution)
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(answer),
            "lit_hour": extension,
        }

    def chunk(
        self, delta: dict[str, str], finish_reason: str | None = None, **extension: Any
    ) -> dict[str, Any]:
        """Return one chunk of a streamed response."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **extension}

    def final_chunk(self, **fields: Any) -> dict[str, Any]:
        """Return a chunk without text, which follows the answer in a stream."""
        return {**self._head("chat.completion.chunk"), "choices": [], **fields}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


async def stream_events(
    completion: Completion,
    first: StreamEvent,
    events: AsyncIterator[StreamEvent],
    options: StreamOptions,
) -> AsyncIterator[str]:
    """Yield a response as server-sent events; an error ends it as an event of its own."""
    yield _format_event(completion.chunk({"role": "assistant", "content": ""}))
    event: StreamEvent | None = first
    try:
        while event is not None:
            if isinstance(event, Heartbeat):
                yield ": heartbeat\n\n"
            elif isinstance(event, Answer):
                extension = _extension(event)
                yield _format_event(completion.chunk({}, event.finish_reason, lit_hour=extension))
                if options.include_usage:
                    yield _format_event(completion.final_chunk(usage=_usage(event)))
            elif isinstance(event, Attribution):
                extension = {"evidence": evidence_fields(event)}
                yield _format_event(completion.final_chunk(lit_hour=extension))
            elif event:
                yield _format_event(completion.chunk({"content": event}))
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


def _format_event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, allow_nan=False)}\n\n"


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.num_prompt_tokens,
        "completion_tokens": answer.num_new_tokens,
        "total_tokens": answer.num_prompt_tokens + answer.num_new_tokens,
    }


def _extension(answer: Answer) -> dict[str, Any]:
    return {
        "num_frames": answer.num_frames,
        "num_memory_tokens": answer.num_memory_tokens,
        "seconds": answer.seconds,
    }


def evidence_fields(attribution: Attribution) -> dict[str, Any]:
    """Return an attribution as clients get it: moments, and the curve over the video."""
    return {
        "moments": [asdict(moment) for moment in attribution.moments],
        "curve": _round_curve(attribution.curve),
    }


def _round_curve(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(seconds, 3), round(share, 4)) for seconds, share in curve]
