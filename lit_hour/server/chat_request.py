"""The body of a chat completion request: OpenAI's fields, checked one by one.

Entry point: `parse_chat`. A field that is not supported is refused by its name, never ignored,
unless it cannot change the answer (`IGNORED_FIELDS`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from lit_hour.config.sampling_params import SamplingParams
from lit_hour.server.http_errors import FieldError
from lit_hour.server.json_fields import JsonFields, parse_json
from lit_hour.types import IMAGE_TOKEN, Message

MAX_MESSAGES = 1000
MAX_IMAGES = 32
MAX_STOP_TEXTS, MAX_STOP_CHARACTERS = 16, 256
DEFAULT_TEMPERATURE = 1.0  # of a request that samples and names none, as OpenAI's
IGNORED_FIELDS = (
    *("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "parallel_tool_calls"),
)
# of messages and their parts: names, and what assistants answered beside their text, sent back
IGNORED_MESSAGE_FIELDS = (
    *("name", "refusal", "annotations", "reasoning_content", "provider_specific_fields"),
    "cache_control",
)
TOOL_FIELDS = ("tools", "tool_choice", "functions", "function_call")
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
BOUNDS: dict[str, Mapping[str, Any]] = {
    field.name: field.metadata for field in fields(SamplingParams)
}


@dataclass(frozen=True)
class MediaPart:
    """A video or an image in a message.

    Attributes:
        url: id of an upload, or URL of the kinds data, file, http and https.
        field: full name of the URL in the request.
    """

    kind: Literal["video", "image"]
    url: str
    field: str


@dataclass(frozen=True)
class Turn:
    """A message as a list of its texts and media, in order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | MediaPart, ...]

    @property
    def media(self) -> list[MediaPart]:
        """The media in order."""
        return [part for part in self.parts if isinstance(part, MediaPart)]


@dataclass(frozen=True)
class ChatRequest:
    """A request after all its fields were checked.

    Attributes:
        media: at most one video, or several images, in order.
        messages: for the processor; the media are not in them.
        include_usage: whether a stream ends with the number of tokens.
        evidence: whether the answer is attributed to moments of the video.
    """

    model: str
    media: tuple[MediaPart, ...]
    messages: tuple[Message, ...]
    params: SamplingParams
    stream: bool
    include_usage: bool
    evidence: bool


def parse_chat(body: bytes, attachments: Mapping[str, bytes]) -> ChatRequest:
    """Parse and check the body of a request.

    Args:
        body: JSON, in which names stand for the data URLs.
        attachments: the data URLs by these names.

    Raises:
        FieldError: a field is missing, wrong or not supported.
    """
    request = JsonFields(parse_json(body))
    for field in TOOL_FIELDS:
        if request.take(field) not in (None, [], "none", "auto"):
            raise FieldError(field, f"{field} is not supported: this model calls no tools.")
    for field in IGNORED_FIELDS:
        request.take(field)
    model = request.required_text("model")
    turns = _read_turns(request, attachments)
    params = _read_params(request)
    stream = request.flag("stream")
    stream_options = request.section("stream_options")
    include_usage = stream_options.flag("include_usage")
    stream_options.take("include_obfuscation")  # padding of the chunks, of no meaning
    stream_options.reject_rest()
    if request.take("modalities") not in (None, ["text"]):
        raise FieldError("modalities", 'modalities must be ["text"]: this model writes text.')
    extension = request.section("lit_hour")
    evidence = extension.flag("evidence")
    extension.reject_rest()
    request.reject_rest()
    media = _check_media(turns)
    if evidence and (not media or media[0].kind == "image" or params.num_choices > 1):
        raise FieldError(
            "lit_hour.evidence", "lit_hour.evidence needs one answer about a video. Leave it out."
        )
    messages = _build_messages(turns, num_images=sum(part.kind == "image" for part in media))
    return ChatRequest(model, media, messages, params, stream, include_usage, evidence)


def _read_turns(request: JsonFields, attachments: Mapping[str, bytes]) -> list[Turn]:
    items = request.items("messages")
    if not 1 <= len(items) <= MAX_MESSAGES:
        raise FieldError(
            "messages", f"messages has {len(items)} items. Give from 1 to {MAX_MESSAGES}."
        )
    turns = []
    for path, item in items:
        message = JsonFields(item, path)
        role = message.required_text("role")
        if role in ("tool", "function"):
            raise FieldError(
                message.name("role"), f"{message.name('role')}={role} is not supported."
            )
        if role not in ROLES:
            raise message.reject("role", f"one of {', '.join(ROLES)}", role)
        for field in ("tool_calls", "function_call", "audio"):
            if message.take(field):
                raise FieldError(message.name(field), f"{message.name(field)} is not supported.")
        parts = tuple(_read_content(message, attachments))
        _reject_rest(message)
        turn = Turn(ROLES[role], parts)  # type: ignore[arg-type]
        if turn.media and role != "user":
            name = turn.media[0].field
            raise FieldError(name, f"{name} is in a message of role {role}. Give it to the user's.")
        turns.append(turn)
    if not any(turn.role == "user" for turn in turns):
        raise FieldError("messages", "messages has none of the user. Give at least one.")
    return turns


def _read_content(message: JsonFields, attachments: Mapping[str, bytes]) -> list[str | MediaPart]:
    content = message.take("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [_check_text(content, message.name("content"), attachments)]
    if not isinstance(content, list):
        raise message.reject("content", "a string or a list of parts", content)
    parts: list[str | MediaPart] = []
    for index, item in enumerate(content):
        part = JsonFields(item, f"{message.name('content')}[{index}]")
        kind = part.choice("type", ("text", "refusal", "image_url", "video_url"))
        if kind in ("text", "refusal"):
            text = part.text(kind) or ""
            parts.append(_check_text(text, part.name(kind), attachments))
            _reject_rest(part)
            continue
        value = part.take(kind)
        url, name = value, part.name(kind)
        if isinstance(value, dict):
            fields_of_url = JsonFields(value, name)
            url, name = fields_of_url.required_text("url"), f"{name}.url"
            fields_of_url.take("detail")  # images are always read in full
            fields_of_url.reject_rest()
        if not isinstance(url, str):
            raise part.reject(kind, 'an object such as {"url": "..."}', url)
        _reject_rest(part)
        parts.append(MediaPart("image" if kind == "image_url" else "video", url, name))
    return parts


def _reject_rest(item: JsonFields) -> None:
    """Check that a message or part has only fields that are read, or cannot change the answer."""
    for field in IGNORED_MESSAGE_FIELDS:
        item.take(field)
    item.reject_rest()


def _check_text(text: str, name: str, attachments: Mapping[str, bytes]) -> str:
    if text in attachments:
        raise FieldError(name, f"{name} is a data URL. Give it as a part of type image_url.")
    return text


def _read_params(request: JsonFields) -> SamplingParams:
    """Read the sampling parameters; without any, the answer is generated greedily."""
    temperature = request.number("temperature", BOUNDS["temperature"])
    top_p = request.number("top_p", BOUNDS["top_p"])
    top_k = request.integer("top_k", {**BOUNDS["top_k"], "ge": -1})  # vLLM's -1 is all, too
    num_choices = request.integer("n", BOUNDS["num_choices"]) or 1
    if temperature is None:
        samples = (top_p or 1.0) < 1 or (top_k or 0) > 0 or num_choices > 1
        temperature = DEFAULT_TEMPERATURE if samples else 0.0
    wants_logprobs = request.flag("logprobs")
    num_top_logprobs = request.integer("top_logprobs", BOUNDS["num_top_logprobs"])
    if num_top_logprobs and not wants_logprobs:
        raise FieldError("top_logprobs", "top_logprobs needs logprobs. Set logprobs to true.")
    max_tokens = request.integer("max_tokens", BOUNDS["max_new_tokens"])
    max_completion_tokens = request.integer("max_completion_tokens", BOUNDS["max_new_tokens"])
    return SamplingParams(
        temperature=temperature,
        top_p=top_p or 1.0,
        top_k=max(0, top_k or 0),
        seed=request.integer("seed", BOUNDS["seed"]),
        frequency_penalty=_penalty(request, "frequency_penalty"),
        presence_penalty=_penalty(request, "presence_penalty"),
        stop=_read_stop(request),
        num_choices=num_choices,
        num_top_logprobs=(num_top_logprobs or 0) if wants_logprobs else None,
        json_schema=_read_schema(request),
        max_new_tokens=max_completion_tokens or max_tokens,
    )


def _penalty(request: JsonFields, field: str) -> float:
    return request.number(field, BOUNDS[field]) or 0.0


def _read_stop(request: JsonFields) -> tuple[str, ...]:
    value = request.take("stop")
    texts = [] if value is None else [value] if isinstance(value, str) else value
    is_valid = (
        isinstance(texts, list)
        and len(texts) <= MAX_STOP_TEXTS
        and all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_CHARACTERS for text in texts)
    )
    if not is_valid:
        raise request.reject(
            "stop",
            f"a string or up to {MAX_STOP_TEXTS} strings, each of 1 to {MAX_STOP_CHARACTERS}"
            " characters",
        )
    return tuple(texts)


def _read_schema(request: JsonFields) -> str | None:
    section = request.section("response_format")
    if section.is_empty:
        return None
    kind = section.choice("type", ("text", "json_object", "json_schema"))
    if kind == "text":
        return None
    if kind == "json_object":
        return json.dumps({"type": "object"})
    wrapper = section.section("json_schema")
    schema = wrapper.take("schema")
    if not isinstance(schema, dict):
        raise wrapper.reject("schema", "a JSON schema, which is an object", schema)
    return json.dumps(schema, sort_keys=True)


def _check_media(turns: Sequence[Turn]) -> tuple[MediaPart, ...]:
    """Return the media of a conversation: its video once, or all its images."""
    media = [part for turn in turns for part in turn.media]
    videos = {part.url: part for part in media if part.kind == "video"}
    images = [part for part in media if part.kind == "image"]
    if len(videos) > 1:
        name = list(videos.values())[-1].field
        raise FieldError(
            name, f"A conversation is about one video, but {len(videos)} were given. Leave one out."
        )
    if videos and images:
        name = images[0].field
        raise FieldError(
            name, "A conversation is about one video or about images, not both. Leave one out."
        )
    if len(images) > MAX_IMAGES:
        name = images[MAX_IMAGES].field
        raise FieldError(name, f"The request has {len(images)} images. Give up to {MAX_IMAGES}.")
    return tuple(videos.values() or images)


def _build_messages(turns: Sequence[Turn], num_images: int) -> tuple[Message, ...]:
    """Return one message for consecutive turns of one role, as the model was trained.

    Each of several images has a placeholder where its part is, unless the user's texts have them.
    """
    texts = [part for turn in turns for part in turn.parts if isinstance(part, str)]
    is_placed = any(IMAGE_TOKEN in text for text in texts)
    placeholder = [IMAGE_TOKEN] if num_images > 1 and not is_placed else []
    merged: list[tuple[str, list[str]]] = []
    for turn in turns:
        lines = [
            line
            for part in turn.parts
            for line in ([part] if isinstance(part, str) else placeholder)
        ]
        if turn.role == "system" and not "".join(lines).strip():
            continue  # the default one holds
        if merged and merged[-1][0] == turn.role:
            merged[-1][1].extend(lines)
        else:
            merged.append((turn.role, lines))
    return tuple(
        Message(role, "\n".join(lines))  # type: ignore[arg-type]
        for role, lines in merged
    )
