"""A question for the teacher in, an answer of the wanted form out: from the journal, or else from a server.

An answer is checked when it comes: it has to be JSON that fits the schema, and make sense to whoever asked. One that does not
is written down like any other, and the teacher is asked again with another seed, which is another request.
"""

from __future__ import annotations

import base64
import hashlib
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

Parsed = TypeVar("Read")

# What is asked of a video, in this order. The earlier is also sent first, whichever video it is about: captions hold the
# memory of their frames and lead to more requests; guesses hold little, and keep the servers busy until there are others.
RequestKind = Literal["clip_caption", "events", "summary", "questions", "verdicts", "guess"]
REQUEST_KINDS: tuple[RequestKind, ...] = get_args(RequestKind)

SYSTEM = (
    "You make data that teaches a model to understand long videos. You answer in JSON of the form that is asked for,"
    " and state nothing that the material does not show."
)
FORM_HINT = "; a server that does not enforce JSON schemas has to be told the form: videomarathon.response_format=prompt"
FORM_IN_WORDS = (
    "Answer with one JSON object and nothing else. It has to fit this JSON schema:\n{schema}"
)
SEEDS_PER_ATTEMPT = 1000  # requests that differ by their seed alone keep below it


@dataclass(frozen=True)
class TeacherRequest:
    """One question for the teacher.

    Attributes:
        name: of the form of the answer.
        parts: texts, and pictures as JPEG files, in the order in which the teacher reads them.
        schema: JSON schema of the answer.
        seed: tells apart requests that are otherwise the same.
    """

    name: RequestKind
    parts: tuple[str | bytes, ...]
    schema: dict[str, Any]
    seed: int = 0


class Teacher:
    """A model behind servers, asked on behalf of one video, whose journal it writes."""

    def __init__(
        self,
        servers: ClientPool,
        model: str,
        settings: VideoMarathonConfig,
        journal: ResponseCache,
        place: int = 0,
    ) -> None:
        """Ask nothing yet.

        Args:
            place: of the video among the others: of equal requests, those of the video that comes first are sent first.
        """
        self.clients = servers
        self.model = model
        self.settings = settings
        self.cache = journal
        self.video_index = place

    async def request(self, request: TeacherRequest, read: Callable[[Any], Parsed]) -> Parsed:
        """Ask, unless the journal knows the answer.

        Args:
            read: makes something of an answer that fits the schema; raises `InvalidResponseError` if it cannot be used.

        Raises:
            InvalidResponseError: no answer could be used, with the reason of the last one; or a server refuses the request.
            TeacherError: no server answers.
        """
        reasons = []
        for attempt in range(self.settings.max_attempts):
            body = self._body(request, attempt)
            key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            reply = self.cache.get(key)
            if reply is None:
                reply = await self.clients.chat(
                    body, key, (REQUEST_KINDS.index(request.name), self.video_index)
                )
                await self.cache.add(key, reply)
            try:
                return read(parse_response(reply, request.schema))
            except InvalidResponseError as error:
                reasons.append(str(error))
        raise InvalidResponseError(
            f"{self.cache.path}: none of {len(reasons)} answers of {self.model} for '{request.name}' can be used; the last:"
            f" {reasons[-1]}. A larger videomarathon.max_attempts asks again"
            + (FORM_HINT if self.settings.response_format == "json_schema" else "")
        )

    async def wait_until_sent(self, form: RequestKind) -> None:
        """Wait until every request of this form, about whatever video, is on its way to a server."""
        await self.clients.slots.wait_until_drained((REQUEST_KINDS.index(form), sys.maxsize))

    def _body(self, request: TeacherRequest, attempt: int) -> dict[str, Any]:
        """The request as it is sent."""
        parts = request.parts
        form: dict[str, Any] = {"type": "json_schema"}
        form["json_schema"] = {"name": request.name, "schema": request.schema, "strict": True}
        if self.settings.response_format == "prompt":
            parts = (*parts, FORM_IN_WORDS.format(schema=json.dumps(request.schema)))
        return {
            "model": self.model,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": [_content(part) for part in parts]},
            ],
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_new_tokens,
            "seed": attempt * SEEDS_PER_ATTEMPT + request.seed,
            **({"response_format": form} if self.settings.response_format == "json_schema" else {}),
        }


def parse_response(reply: Response, schema: dict[str, Any]) -> Any:
    """The JSON object of an answer; words before and after it do not count.

    Raises:
        InvalidResponseError: the answer was cut off, is not JSON, or does not fit the schema.
    """
    if reply.finish_reason == "length":
        raise InvalidResponseError(
            f"it was cut off after {reply.answer_tokens} tokens (videomarathon.max_new_tokens)"
        )
    try:
        answer = json.loads(reply.text[max(reply.text.find("{"), 0) : reply.text.rfind("}") + 1])
    except ValueError as error:
        raise InvalidResponseError(f"it is not JSON ({error}): {reply.text[:80]!r}") from error
    fault = best_match(Draft202012Validator(schema).iter_errors(answer))
    if fault is not None:
        raise InvalidResponseError(
            f"it does not fit the schema: {fault.json_path}: {fault.message[:200]}"
        )
    return answer


def object_schema(**properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has all of these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def list_schema(item: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list."""
    return {"type": "array", "items": item}


def _content(part: str | bytes) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(part).decode('ascii')}"},
    }
