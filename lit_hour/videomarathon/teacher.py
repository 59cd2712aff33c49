"""Request structured answers from the teacher, the model that annotates: `Teacher.request`.

Each response is checked when it arrives: it must be JSON that fits the request's schema and must
parse. An invalid one is cached like any other, and the request is repeated with another seed, which
makes it a different request.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import InvalidResponseError
from lit_hour.videomarathon.llm_client import ClientPool
from lit_hour.videomarathon.response_cache import Response, ResponseCache

Parsed = TypeVar("Parsed")

# In the order of the pipeline, which is also the priority over all videos. Early requests come
# first: captions keep their frames in memory and lead to further requests. Guesses need little
# memory and fill the servers in between.
RequestKind = Literal["clip_caption", "events", "summary", "questions", "verdicts", "guess"]
REQUEST_KINDS: tuple[RequestKind, ...] = get_args(RequestKind)

SYSTEM_PROMPT = (
    "You make data that teaches a model to understand long videos. You answer in JSON of the form"
    " that is asked for, and state nothing that the material does not show."
)
SCHEMA_PROMPT = (
    "Answer with one JSON object and nothing else. It has to fit this JSON schema:\n{schema}"
)
SCHEMA_HINT = (
    " If the server does not enforce JSON schemas, set videomarathon.response_format=prompt."
)
SEEDS_PER_ATTEMPT = 1000  # requests that differ only in their seed use smaller seeds


@dataclass(frozen=True)
class TeacherRequest:
    """A request to the teacher.

    Attributes:
        kind: also the name of the schema.
        parts: texts and JPEG files, in the order of the message.
        schema: JSON schema of the answer.
        seed: distinguishes requests that are otherwise equal; less than `SEEDS_PER_ATTEMPT`.
    """

    kind: RequestKind
    parts: tuple[str | bytes, ...]
    schema: dict[str, Any]
    seed: int = 0


class Teacher:
    """The teacher model for one video: requests go through the video's response cache."""

    def __init__(
        self,
        clients: ClientPool,
        model: str,
        config: VideoMarathonConfig,
        cache: ResponseCache,
        video_index: int = 0,
    ) -> None:
        """Store the arguments.

        Args:
            clients: of the servers.
            model: name of the teacher on the servers.
            config: sampling settings and the response format.
            cache: of the video.
            video_index: priority among requests of the same kind; the lowest is sent first.
        """
        self.clients = clients
        self.model = model
        self.config = config
        self.cache = cache
        self.video_index = video_index

    async def request(self, request: TeacherRequest, parse: Callable[[Any], Parsed]) -> Parsed:
        """Return the parsed answer, from the cache or from a server.

        Args:
            request: what to send.
            parse: converts an answer that fits the schema; raises `InvalidResponseError` if the
                answer is not usable.

        Raises:
            InvalidResponseError: no attempt gave a usable answer (with the reason of the last one),
                or a server refuses the request.
            TeacherError: no server answers.
        """
        reasons = []
        priority = (REQUEST_KINDS.index(request.kind), self.video_index)
        for attempt in range(self.config.max_attempts):
            body = self._body(request, attempt)
            response = await self.clients.cached_chat(body, self.cache, priority)
            try:
                return parse(parse_response(response, request.schema))
            except InvalidResponseError as error:
                reasons.append(str(error))
        raise InvalidResponseError(
            f"{self.cache.path}: {self.model} gave no usable answer to '{request.kind}' in"
            f" {len(reasons)} attempts. The last one: {reasons[-1]} Raise"
            " videomarathon.max_attempts to try again."
            + (SCHEMA_HINT if self.config.response_format == "json_schema" else "")
        )

    async def wait_until_sent(self, kind: RequestKind) -> None:
        """Wait until every request of this kind, for any video, has been sent to a server."""
        await self.clients.slots.wait_until_drained((REQUEST_KINDS.index(kind), sys.maxsize))

    def _body(self, request: TeacherRequest, attempt: int) -> dict[str, Any]:
        """Return the JSON body of a chat completion request."""
        parts = request.parts
        if self.config.response_format == "prompt":
            parts = (*parts, SCHEMA_PROMPT.format(schema=json.dumps(request.schema)))
        body = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": [_content_part(part) for part in parts]},
            ],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_new_tokens,
            "seed": attempt * SEEDS_PER_ATTEMPT + request.seed,
        }
        if self.config.response_format == "json_schema":
            schema = {"name": request.kind, "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


def parse_response(response: Response, schema: dict[str, Any]) -> Any:
    """Return the JSON object in a response; text before and after it is ignored.

    Raises:
        InvalidResponseError: the response was cut off, is not JSON, or does not fit the schema.
    """
    if response.finish_reason == "length":
        raise InvalidResponseError(
            f"It was cut off after {response.completion_tokens} tokens"
            " (videomarathon.max_new_tokens)."
        )
    text = response.text
    try:
        answer = json.loads(text[max(text.find("{"), 0) : text.rfind("}") + 1])
    except ValueError as error:
        raise InvalidResponseError(f"It is not JSON ({error}): {text[:80]!r}.") from error
    fault = best_match(Draft202012Validator(schema).iter_errors(answer))
    if fault is not None:
        raise InvalidResponseError(
            f"It does not fit the schema at {fault.json_path}: {fault.message[:200]}."
        )
    return answer


def object_schema(**properties: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def list_schema(item: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a list."""
    return {"type": "array", "items": item}


def _content_part(part: str | bytes) -> dict[str, Any]:
    """Return a text or a JPEG file as a content part of a chat message."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    encoded = base64.b64encode(part).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}
