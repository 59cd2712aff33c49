"""OpenAI's chat completions: the route, from the body of a request to its response.

Entry point: `create_completion`. `chat_request` reads the body, `media` the videos and images in
it, `generation` answers, and `chat_response` writes the answers.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from lit_hour.errors import InputError, QuestionError
from lit_hour.server.chat_request import ChatRequest, parse_chat
from lit_hour.server.chat_response import Completion, EventStream, collect, stream_events
from lit_hour.server.data_urls import MAX_JSON_BYTES, detach_data_urls
from lit_hour.server.generation import GenerationRequest
from lit_hour.server.http_errors import FieldError, input_error_status
from lit_hour.server.queueing import cancel_on_disconnect, client_address
from lit_hour.server.request_body import read_body
from lit_hour.server.state import AppState


async def create_completion(request: Request, state: AppState) -> Response:
    """Answer one request of the route /v1/chat/completions, in one response or as a stream.

    Raises:
        HTTPException: the request is invalid, or its model or video does not exist.
        InputError: the question does not fit the model, or a video or image cannot be read.
    """
    state.queue.check_capacity()  # before the body, which may be large
    completion = Completion.begin(state.model_name)
    chat, generation = await _read_request(request, state, completion.id)
    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(state.generation.stream(generation))
        if not chat.stream:
            answers, attribution = await cancel_on_disconnect(request, collect(events))
            has_logprobs = chat.params.num_top_logprobs is not None
            return JSONResponse(completion.full(answers, attribution, has_logprobs))
        # errors before the first event become the status of the response
        first = await cancel_on_disconnect(request, anext(events))
        content = stream_events(
            completion, first, events, chat.params.num_choices, chat.include_usage
        )
        return EventStream(content, stack.pop_all())


async def _read_request(
    request: Request, state: AppState, completion_id: str
) -> tuple[ChatRequest, GenerationRequest]:
    """Read the body of a request, and the media that it names or holds."""
    async with AsyncExitStack() as stack:
        max_bytes = MAX_JSON_BYTES
        declared_bytes = request.headers.get("content-length", "")
        is_gzip = "content-encoding" in request.headers
        if is_gzip or not declared_bytes.isdecimal() or int(declared_bytes) > MAX_JSON_BYTES:
            # with data URLs, or of unknown size: few at a time
            await stack.enter_async_context(state.uploads.admit())
            max_bytes = state.settings.max_request_mb * 1_000_000
        body = await read_body(request, max_bytes, state.settings.upload_idle_seconds)
        body, attachments = await asyncio.to_thread(detach_data_urls, body)
        chat = parse_chat(body, attachments)
        state.check_model(chat.model)
        await _check_schema(chat, state)
        video = images = None
        try:
            if chat.media and chat.media[0].kind == "video":
                video = await state.media.open_video(request, chat.media[0], attachments)
            elif chat.media:
                images = await state.media.load_images(request, chat.media, attachments)
        except InputError as error:
            field = chat.media[0].field if len(chat.media) == 1 else "messages"
            raise FieldError(field, str(error), input_error_status(error)) from error
    generation = GenerationRequest(
        completion_id,
        chat.messages,
        client_address(request),
        video,
        images,
        chat.params,
        chat.evidence,
    )
    return chat, generation


async def _check_schema(chat: ChatRequest, state: AppState) -> None:
    """Compile the JSON schema of a request beside the model, which would wait for it."""
    if chat.params.json_schema is not None:
        try:
            await asyncio.to_thread(state.generation.compile_schema, chat.params.json_schema)
        except QuestionError as error:
            raise FieldError("response_format", str(error)) from error
