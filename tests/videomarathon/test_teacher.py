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

SCHEMA = object_schema(colour={"type": "string"}, sizes=list_schema({"type": "number"}))
ANSWER = {"colour": "red", "sizes": [1, 2.5]}
REQUEST = TeacherRequest(
    "summary", ("Which colour?", b"\xff\xd8 a picture", "And which sizes?"), SCHEMA
)


def ask(
    server: ChatServer,
    journal: Path,
    settings: VideoMarathonConfig,
    request: TeacherRequest = REQUEST,
    read: Callable[[Any], Any] = lambda answer: answer,
    model: str = "teller",
) -> Any:
    """One question to the teacher, by a process that has just begun."""

    async def run() -> Any:
        servers = ClientPool([server.url], settings.client)
        try:
            with ResponseCache(journal) as opened:
                return await Teacher(servers, model, settings, opened).request(request, read)
        finally:
            await servers.close()

    return asyncio.run(run())


def answering(fault: Callable[[int], Fault | None] = lambda number: None) -> ChatServer:
    return ChatServer(lambda body: json.dumps(ANSWER), fault)


def test_texts_and_pictures_arrive_in_order_with_the_form_that_is_wanted(
    tmp_path: Path, settings: VideoMarathonConfig
) -> None:
    with answering() as server:
        assert ask(server, tmp_path / "journal.jsonl", settings) == ANSWER
        body = json.loads(server.answered[0].body)
    parts = body["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text"]
    head, picture = parts[1]["image_url"]["url"].split(",")
    assert (head, base64.b64decode(picture)) == ("data:image/jpeg;base64", b"\xff\xd8 a picture")
    assert body["model"] == "teller"
    assert body["response_format"]["json_schema"] == {
        "name": "summary",
        "schema": SCHEMA,
        "strict": True,
    }


def test_nothing_is_asked_twice(tmp_path: Path, settings: VideoMarathonConfig) -> None:
    with answering() as server:
        for _ in range(3):
            assert ask(server, tmp_path / "journal.jsonl", settings) == ANSWER
        assert server.num_requests == 1


@pytest.mark.parametrize(
    "change",
    [
        {"request": replace(REQUEST, seed=1)},
        {
            "request": replace(
                REQUEST, parts=("Which colour?", b"\xff\xd8 another", "And which sizes?")
            )
        },
        {"request": replace(REQUEST, parts=("Which colour?",))},
        {"request": replace(REQUEST, schema=object_schema(colour={"type": "string"}, sizes={}))},
        {"model": "another"},
    ],
    ids=["seed", "picture", "text", "schema", "model"],
)
def test_whatever_differs_is_another_request(
    tmp_path: Path, settings: VideoMarathonConfig, change: dict[str, Any]
) -> None:
    with answering() as server:
        ask(server, tmp_path / "journal.jsonl", settings)
        ask(server, tmp_path / "journal.jsonl", settings, **change)
        assert server.num_requests == len(set(server.keys)) == 2


@pytest.mark.parametrize("fault", ["half", "prose", "schema", "empty"])
def test_an_answer_that_cannot_be_used_is_kept_and_asked_for_again(
    tmp_path: Path, settings: VideoMarathonConfig, fault: str
) -> None:
    with answering(lambda number: fault if number <= 2 else None) as server:
        for _ in range(2):
            assert ask(server, tmp_path / "journal.jsonl", settings) == ANSWER
        assert server.num_requests == len(set(server.keys)) == 3
    with ResponseCache(tmp_path / "journal.jsonl") as journal:
        assert len(journal) == 3


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("half", r"cut off after \d+ tokens \(videomarathon.max_new_tokens\)"),
        ("prose", "it is not JSON"),
        ("schema", r"it does not fit the schema: \$: "),
        ("empty", "it is not JSON"),
    ],
)
def test_when_no_answer_can_be_used_the_reason_is_told(
    tmp_path: Path, settings: VideoMarathonConfig, fault: str, reason: str
) -> None:
    with answering(lambda number: fault) as server:
        for _ in range(2):
            with pytest.raises(
                InvalidResponseError,
                match=rf"journal\.jsonl: none of 3 answers of teller for 'summary' .*{reason}",
            ):
                ask(server, tmp_path / "journal.jsonl", settings)
        assert server.num_requests == 3
        with pytest.raises(InvalidResponseError, match="none of 4 answers"):
            ask(server, tmp_path / "journal.jsonl", replace(settings, max_attempts=4))
        assert server.num_requests == 4


@pytest.mark.parametrize(
    "form, hint",
    [("json_schema", r"; .*: videomarathon\.response_format=prompt$"), ("prompt", "asks again$")],
)
def test_a_server_that_may_not_know_schemas_is_thought_of(
    tmp_path: Path, settings: VideoMarathonConfig, form: Literal["json_schema", "prompt"], hint: str
) -> None:
    with (
        answering(lambda number: "prose") as server,
        pytest.raises(InvalidResponseError, match=hint),
    ):
        ask(server, tmp_path / "journal.jsonl", replace(settings, response_format=form))


@pytest.mark.parametrize("said", ["{}", "Here it is:\n```json\n{}\n```\nAnything else?"])
def test_the_form_can_be_told_in_words(
    tmp_path: Path, settings: VideoMarathonConfig, said: str
) -> None:
    with ChatServer(lambda body: said.replace("{}", json.dumps(ANSWER))) as server:
        assert (
            ask(server, tmp_path / "journal.jsonl", replace(settings, response_format="prompt"))
            == ANSWER
        )
        body = json.loads(server.answered[0].body)
    assert "response_format" not in body
    assert body["messages"][-1]["content"][-1]["text"].endswith(json.dumps(SCHEMA))


def test_whoever_asks_can_refuse_an_answer(tmp_path: Path, settings: VideoMarathonConfig) -> None:
    def read(answer: Any) -> Any:
        raise InvalidResponseError(f"{answer['colour']} will not do")

    with (
        answering() as server,
        pytest.raises(InvalidResponseError, match="the last: red will not do"),
    ):
        ask(server, tmp_path / "journal.jsonl", settings, read=read)
