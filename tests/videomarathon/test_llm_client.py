"""The client pool against HTTP servers that fail in every way."""

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

CONFIG = ClientConfig(
    max_concurrent_requests=8, timeout_seconds=20.0, backoff_seconds=0.02, max_backoff_seconds=0.2
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
    urls: Sequence[str], num_requests: int, config: ClientConfig = CONFIG
) -> tuple[list[Response], ClientPool]:
    """Send requests concurrently and return the responses."""

    async def run() -> tuple[list[Response], ClientPool]:
        pool = ClientPool(urls, config)
        requests = (pool.chat(body_of(number), f"key {number}") for number in range(num_requests))
        try:
            return await asyncio.gather(*requests), pool
        finally:
            await pool.close()

    return asyncio.run(run())


def texts(responses: Sequence[Response]) -> list[str]:
    return [response.text for response in responses]


def expected(num_requests: int) -> list[str]:
    return [f"number {number}" for number in range(num_requests)]


def test_each_request_gets_its_own_response_and_is_counted() -> None:
    with ChatServer(echo, delay_seconds=0.2) as server:
        responses, pool = chat([server.url], 40)
    assert texts(responses) == expected(40)
    assert sorted(server.keys) == sorted(f"key {number}" for number in range(40))
    assert server.max_concurrent == CONFIG.max_concurrent_requests
    assert pool.usage.num_responses == 40
    assert pool.usage.prompt_tokens == sum(response.prompt_tokens for response in responses) > 0
    assert pool.usage.completion_tokens > 0
    assert "40 responses" in pool.describe()


@pytest.mark.parametrize(
    "fault, counted",
    [
        ("429", "429"),
        ("500", "500"),
        ("503", "503"),
        ("408", "408"),
        ("cut", "APIConnectionError"),
        pytest.param("slow", "APITimeoutError", marks=pytest.mark.slow),
        ("not_json", "JSONDecodeError"),
        *((fault, "ValueError") for fault in STRANGE),
    ],
)
def test_invalid_response_is_requested_again(fault: str, counted: str) -> None:
    with ChatServer(echo, fault=lambda number: fault if number in (1, 3, 9) else None) as server:
        config = replace(CONFIG, timeout_seconds=1.5) if fault == "slow" else CONFIG
        responses, pool = chat([server.url], 12, config)
    assert texts(responses) == expected(12)
    assert pool.usage.failures == {counted: 3}
    assert server.num_requests == 15


def test_waits_for_a_server_that_starts_later() -> None:
    server = ChatServer(echo)
    starting = threading.Timer(0.4, server.start)
    starting.start()
    responses, pool = chat([server.url], 4)
    starting.join()
    server.die()
    assert texts(responses) == expected(4)
    assert set(pool.usage.failures) == {"APIConnectionError"}


def test_unreachable_server_is_named() -> None:
    server = ChatServer(echo)
    message = rf"^{server.url} did not answer a request that was sent 3 times .* run the same"
    with pytest.raises(TeacherError, match=message):
        chat([server.url], 4, replace(CONFIG, max_retries=2))


def test_request_that_no_server_can_answer_fails_alone() -> None:
    async def run(pool: ClientPool) -> list[Response | BaseException]:
        content = [{"type": "text", "text": POISON}]
        poisoned = body_of(0) | {"messages": [{"role": "user", "content": content}]}
        bodies = [poisoned, *(body_of(number) for number in range(1, 100))]
        requests = (pool.chat(body, f"key {number}") for number, body in enumerate(bodies))
        return await asyncio.gather(*requests, return_exceptions=True)

    with ChatServer(echo, delay_seconds=0.01) as server:
        config = replace(CONFIG, max_concurrent_requests=4, max_retries=2)
        error, *others = asyncio.run(run(ClientPool([server.url], config)))
    assert texts([other for other in others if isinstance(other, Response)]) == expected(100)[1:]
    assert isinstance(error, InvalidResponseError)
    message = r"sent 3 times \(.*cannot be computed.*\), while \d+ others were answered"
    assert re.search(message, str(error))


def test_backoff_is_exponential() -> None:
    with ChatServer(echo, fault=lambda number: "500") as server:
        started = time.monotonic()
        config = replace(CONFIG, max_retries=4, backoff_seconds=0.05, max_backoff_seconds=10.0)
        with pytest.raises(TeacherError):
            chat([server.url], 1, config)
        assert time.monotonic() - started > 0.75 * (0.05 + 0.1 + 0.2 + 0.4)
        assert server.num_requests == 5


def test_retry_after_header_is_respected() -> None:
    with ChatServer(echo, fault=lambda number: "429" if number == 1 else None) as server:
        started = time.monotonic()
        chat([server.url], 1, replace(CONFIG, backoff_seconds=1e-6))
        assert time.monotonic() - started > 0.05  # the server's Retry-After


def test_requests_are_distributed_over_servers() -> None:
    with ChatServer(echo, delay_seconds=0.02) as one, ChatServer(echo, delay_seconds=0.02) as other:
        responses, _ = chat([one.url, other.url], 40)
    assert texts(responses) == expected(40)
    assert min(len(one.answered), len(other.answered)) > 12


def die_after(server: ChatServer, num_responses: int) -> None:
    while len(server.answered) < num_responses:
        time.sleep(0.01)
    server.die()


def test_other_servers_replace_one_that_dies() -> None:
    with ChatServer(echo, delay_seconds=0.05) as one, ChatServer(echo, delay_seconds=0.05) as other:
        dying = threading.Thread(target=die_after, args=(one, 5))
        dying.start()
        responses, pool = chat([one.url, other.url], 150)
        dying.join()
    assert texts(responses) == expected(150)
    assert len(other.answered) > len(one.answered) > 0
    assert pool.usage.failures["APIConnectionError"] > 0


def test_server_that_comes_back_is_used_again() -> None:
    with ChatServer(echo, delay_seconds=0.05) as server:
        for seconds, action in ((0.3, server.die), (0.6, server.start)):
            threading.Timer(seconds, action).start()
        responses, pool = chat([server.url], 100, replace(CONFIG, max_retries=100))
    assert texts(responses) == expected(100)
    assert pool.usage.failures["APIConnectionError"] > 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_invalid_request_is_not_sent_again(status: int) -> None:
    with ChatServer(echo, fault=lambda number: str(status)) as server:
        message = rf"refuses a request \({status}\): .*a requested fault"
        with pytest.raises(InvalidResponseError, match=message):
            chat([server.url], 1)
        assert server.num_requests == 1


@pytest.mark.parametrize("status, hint", [(401, "OPENAI_API_KEY"), (403, ""), (404, "")])
def test_server_that_refuses_every_request_is_named(status: int, hint: str) -> None:
    with ChatServer(echo, fault=lambda number: str(status)) as server:
        message = rf"{server.url} refuses requests \({status}\).*{hint}"
        with pytest.raises(TeacherError, match=message):
            chat([server.url], 1)
        assert server.num_requests == 1


def test_api_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-the-test")
    with ChatServer(echo) as server:
        chat([server.url], 1)
        assert server.authorization == "Bearer a-key-of-the-test"


def test_invalid_url_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"--teacher localhost:8000 is not a URL\. Give the URL"):
        ClientPool(["localhost:8000"], CONFIG)
