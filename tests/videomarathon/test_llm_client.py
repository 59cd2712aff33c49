"""The client against a server over HTTP that fails in every way that servers have."""

import asyncio
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lit_hour.config.videomarathon import ClientConfig
from lit_hour.errors import InvalidResponseError, TeacherError
from lit_hour.videomarathon.llm_client import ClientPool
from lit_hour.videomarathon.response_cache import Response
from tests.videomarathon.chat_server import POISON, STRANGE, ChatServer

SETTINGS = ClientConfig(
    max_concurrent_requests=8, timeout_seconds=1.0, backoff_seconds=0.02, max_backoff_seconds=0.2
)


def body_of(number: int) -> dict[str, Any]:
    return {
        "model": "echo",
        "messages": [{"role": "user", "content": [{"type": "text", "text": f"number {number}"}]}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "echo", "schema": {}}},
    }


def echo(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"][0]["text"]


def chat(
    urls: Sequence[str], num_requests: int, settings: ClientConfig = SETTINGS
) -> tuple[list[Response], ClientPool]:
    """The answers to so many requests, sent at once."""

    async def run() -> tuple[list[Response], ClientPool]:
        servers = ClientPool(urls, settings)
        try:
            return await asyncio.gather(
                *(servers.chat(body_of(each), f"key {each}") for each in range(num_requests))
            ), servers
        finally:
            await servers.close()

    return asyncio.run(run())


def texts(replies: Sequence[Response]) -> list[str]:
    return [reply.text for reply in replies]


def wanted(num_requests: int) -> list[str]:
    return [f"number {each}" for each in range(num_requests)]


def test_every_request_gets_its_own_answer_and_is_counted() -> None:
    with ChatServer(echo, delay_seconds=0.2) as server:
        replies, servers = chat([server.url], 40)
    assert texts(replies) == wanted(40)
    assert sorted(server.keys) == sorted(f"key {each}" for each in range(40))
    assert server.most_at_once == SETTINGS.max_concurrent_requests
    assert servers.usage.num_answered == 40
    assert servers.usage.prompt_tokens == sum(reply.prompt_tokens for reply in replies) > 0
    assert servers.usage.answer_tokens == sum(reply.answer_tokens for reply in replies) > 0
    assert "40 answers" in servers.describe()


@pytest.mark.parametrize(
    "fault, counted",
    [
        ("429", "429"),
        ("500", "500"),
        ("503", "503"),
        ("408", "408"),
        ("cut", "APIConnectionError"),
        ("slow", "APITimeoutError"),
        ("not_json", "JSONDecodeError"),
        *((fault, "ValueError") for fault in STRANGE),
    ],
)
def test_what_is_no_answer_is_asked_again(fault: str, counted: str) -> None:
    with ChatServer(echo, fault=lambda number: fault if number in (1, 3, 9) else None) as server:
        replies, servers = chat([server.url], 12, replace(SETTINGS, timeout_seconds=0.4))
    assert texts(replies) == wanted(12)
    assert servers.usage.failures == {counted: 3}
    assert server.num_requests == 15


def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    server = ChatServer(echo)
    starting = threading.Timer(0.4, server.start)
    starting.start()
    replies, servers = chat([server.url], 4)
    starting.join()
    server.die()
    assert texts(replies) == wanted(4)
    assert set(servers.usage.failures) == {"APIConnectionError"}


def test_a_server_that_never_comes_is_named() -> None:
    server = ChatServer(echo)
    with pytest.raises(
        TeacherError,
        match=rf"^{server.url} did not answer a request that was sent 3 times .* run the same",
    ):
        chat([server.url], 4, replace(SETTINGS, max_retries=2))


def test_a_request_that_no_server_can_answer_fails_alone() -> None:
    async def run(servers: ClientPool) -> list[Response | BaseException]:
        poisoned = body_of(0) | {
            "messages": [{"role": "user", "content": [{"type": "text", "text": POISON}]}]
        }
        bodies = [poisoned, *(body_of(each) for each in range(1, 200))]
        asked = (servers.chat(body, f"key {place}") for place, body in enumerate(bodies))
        return await asyncio.gather(*asked, return_exceptions=True)

    with ChatServer(echo, delay_seconds=0.01) as server:
        settings = replace(SETTINGS, max_concurrent_requests=4, max_retries=2)
        poisoned, *others = asyncio.run(run(ClientPool([server.url], settings)))
    assert [each.text for each in others if isinstance(each, Response)] == wanted(200)[1:]
    assert isinstance(poisoned, InvalidResponseError)
    assert re.search(
        r"sent 3 times \(.*cannot be computed.*\), while \d+ others were answered", str(poisoned)
    )


def test_rests_grow_so_that_a_server_is_not_stormed() -> None:
    with ChatServer(echo, fault=lambda number: "500") as server:
        started = time.monotonic()
        with pytest.raises(TeacherError):
            chat(
                [server.url],
                1,
                replace(SETTINGS, max_retries=4, backoff_seconds=0.05, max_backoff_seconds=10.0),
            )
        assert time.monotonic() - started > 0.75 * (0.05 + 0.1 + 0.2 + 0.4)
        assert server.num_requests == 5


def test_a_wish_to_be_left_alone_is_granted() -> None:
    with ChatServer(echo, fault=lambda number: "429" if number == 1 else None) as server:
        started = time.monotonic()
        chat([server.url], 1, replace(SETTINGS, backoff_seconds=1e-6))
        assert time.monotonic() - started > 0.05  # the Retry-After of the test's server


def test_work_is_shared_among_servers() -> None:
    with ChatServer(echo, delay_seconds=0.02) as one, ChatServer(echo, delay_seconds=0.02) as other:
        replies, _ = chat([one.url, other.url], 40)
    assert texts(replies) == wanted(40)
    assert min(len(one.answered), len(other.answered)) > 12


def die_after(server: ChatServer, num_answers: int) -> None:
    while len(server.answered) < num_answers:
        time.sleep(0.01)
    server.die()


def test_a_server_that_dies_in_the_middle_is_replaced_by_the_others() -> None:
    with ChatServer(echo, delay_seconds=0.05) as one, ChatServer(echo, delay_seconds=0.05) as other:
        dying = threading.Thread(target=die_after, args=(one, 5))
        dying.start()
        replies, servers = chat([one.url, other.url], 150)
        dying.join()
    assert texts(replies) == wanted(150)
    assert len(other.answered) > len(one.answered) > 0
    assert servers.usage.failures["APIConnectionError"] > 0


def test_a_server_that_dies_and_comes_back_is_used_again() -> None:
    with ChatServer(echo, delay_seconds=0.05) as server:
        for seconds, do in ((0.3, server.die), (0.6, server.start)):
            threading.Timer(seconds, do).start()
        replies, servers = chat([server.url], 100, replace(SETTINGS, max_retries=100))
    assert texts(replies) == wanted(100)
    assert servers.usage.failures["APIConnectionError"] > 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_is_not_sent_again(status: int) -> None:
    with ChatServer(echo, fault=lambda number: str(status)) as server:
        with pytest.raises(
            InvalidResponseError,
            match=rf"refuses a request \({status}\): .*a fault that was asked for",
        ):
            chat([server.url], 1)
        assert server.num_requests == 1


@pytest.mark.parametrize("status, hint", [(401, "OPENAI_API_KEY"), (403, ""), (404, "")])
def test_a_server_that_refuses_every_request_is_named(status: int, hint: str) -> None:
    with ChatServer(echo, fault=lambda number: str(status)) as server:
        with pytest.raises(
            TeacherError, match=rf"{server.url} refuses requests \({status}\).*{hint}"
        ):
            chat([server.url], 1)
        assert server.num_requests == 1


def test_the_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-the-test")
    with ChatServer(echo) as server:
        chat([server.url], 1)
        assert server.authorization == "Bearer a-key-of-the-test"


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"--teacher localhost:8000: give the URL"):
        ClientPool(["localhost:8000"], SETTINGS)
