"""Requests to the teacher: caching, repetition after useless answers, and response formats."""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import InvalidResponseError
from lit_hour.videomarathon.llm_client import ClientPool
from lit_hour.videomarathon.response_cache import ResponseCache
from lit_hour.videomarathon.teacher import Teacher, TeacherRequest, list_schema, object_schema
from tests.videomarathon.chat_server import ChatServer, Fault

SCHEMA = object_schema(color={"type": "string"}, sizes=list_schema({"type": "number"}))
ANSWER = {"color": "red", "sizes": [1, 2.5]}
PARTS = ("Which color?", b"\xff\xd8 an image", "And which sizes?")
REQUEST = TeacherRequest("summary", PARTS, SCHEMA)


@pytest.fixture
def cache_path(tmp_path: Path) -> Path:
    return tmp_path / "responses.jsonl"


def send(
    server: ChatServer,
    cache_path: Path,
    config: VideoMarathonConfig,
    request: TeacherRequest = REQUEST,
    parse: Callable[[Any], Any] = lambda answer: answer,
    model: str = "teacher",
) -> Any:
    """Send a request as a process does that has just started."""

    async def run() -> Any:
        clients = ClientPool([server.url], config.client)
        try:
            with ResponseCache(cache_path) as cache:
                return await Teacher(clients, model, config, cache).request(request, parse)
        finally:
            await clients.close()

    return asyncio.run(run())


def start_server(fault: Callable[[int], Fault | None] = lambda number: None) -> ChatServer:
    return ChatServer(lambda body: json.dumps(ANSWER), fault)


def test_request_body(cache_path: Path, config: VideoMarathonConfig) -> None:
    with start_server() as server:
        assert send(server, cache_path, config) == ANSWER
        body = json.loads(server.answered[0].body)
    parts = body["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text"]
    head, image = parts[1]["image_url"]["url"].split(",")
    assert (head, base64.b64decode(image)) == ("data:image/jpeg;base64", PARTS[1])
    assert body["model"] == "teacher"
    schema = {"name": "summary", "schema": SCHEMA, "strict": True}
    assert body["response_format"]["json_schema"] == schema


def test_response_is_cached(cache_path: Path, config: VideoMarathonConfig) -> None:
    with start_server() as server:
        for _ in range(3):
            assert send(server, cache_path, config) == ANSWER
        assert server.num_requests == 1


def test_any_difference_makes_another_request(
    cache_path: Path, config: VideoMarathonConfig
) -> None:
    other_schema = object_schema(color={"type": "string"}, sizes={})
    changes: list[dict[str, Any]] = [
        {"request": replace(REQUEST, seed=1)},
        {"request": replace(REQUEST, parts=(PARTS[0], b"\xff\xd8 another", PARTS[2]))},
        {"request": replace(REQUEST, parts=PARTS[:1])},
        {"request": replace(REQUEST, schema=other_schema)},
        {"model": "another"},
    ]
    with start_server() as server:
        send(server, cache_path, config)
        for number, change in enumerate(changes, start=2):
            send(server, cache_path, config, **change)
            assert server.num_requests == len(set(server.keys)) == number, change


@pytest.mark.parametrize("fault", ["half", "prose", "schema", "empty"])
def test_useless_response_is_cached_and_requested_again(
    cache_path: Path, config: VideoMarathonConfig, fault: str
) -> None:
    with start_server(lambda number: fault if number <= 2 else None) as server:
        for _ in range(2):
            assert send(server, cache_path, config) == ANSWER
        assert server.num_requests == len(set(server.keys)) == 3
    with ResponseCache(cache_path) as cache:
        assert len(cache) == 3


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("half", r"cut off after \d+ tokens \(videomarathon.max_new_tokens\)"),
        ("prose", "It is not JSON"),
        ("schema", r"It does not fit the schema at \$: "),
        ("empty", "It is not JSON"),
    ],
)
def test_error_names_the_reason_of_the_last_attempt(
    cache_path: Path, config: VideoMarathonConfig, fault: str, reason: str
) -> None:
    no_answer = r"teacher gave no usable answer to 'summary' in"
    with start_server(lambda number: fault) as server:
        for _ in range(2):
            message = rf"responses\.jsonl: {no_answer} 3 attempts\. .*{reason}"
            with pytest.raises(InvalidResponseError, match=message):
                send(server, cache_path, config)
        assert server.num_requests == 3
        with pytest.raises(InvalidResponseError, match=f"{no_answer} 4 attempts"):
            send(server, cache_path, replace(config, max_attempts=4))
        assert server.num_requests == 4


@pytest.mark.parametrize(
    "response_format, hint",
    [
        ("json_schema", r"schemas, set videomarathon\.response_format=prompt\.$"),
        ("prompt", "to try again\\.$"),
    ],
)
def test_error_suggests_the_prompt_format(
    cache_path: Path,
    config: VideoMarathonConfig,
    response_format: Literal["json_schema", "prompt"],
    hint: str,
) -> None:
    config = replace(config, response_format=response_format)
    with (
        start_server(lambda number: "prose") as server,
        pytest.raises(InvalidResponseError, match=hint),
    ):
        send(server, cache_path, config)


@pytest.mark.parametrize("text", ["{}", "Here it is:\n```json\n{}\n```\nAnything else?"])
def test_schema_can_be_part_of_the_prompt(
    cache_path: Path, config: VideoMarathonConfig, text: str
) -> None:
    with ChatServer(lambda body: text.replace("{}", json.dumps(ANSWER))) as server:
        assert send(server, cache_path, replace(config, response_format="prompt")) == ANSWER
        body = json.loads(server.answered[0].body)
    assert "response_format" not in body
    assert body["messages"][-1]["content"][-1]["text"].endswith(json.dumps(SCHEMA))


def test_parse_can_reject_an_answer(cache_path: Path, config: VideoMarathonConfig) -> None:
    def parse(answer: Any) -> Any:
        raise InvalidResponseError(f"{answer['color']} is not allowed.")

    with (
        start_server() as server,
        pytest.raises(InvalidResponseError, match="The last one: red is not allowed"),
    ):
        send(server, cache_path, config, parse=parse)
