"""Coroutines in, their results out, all of them at work at once.

Requests in, a place for each among those that are in flight out, in the order of their urgency.

There are as many places as requests may be in flight. Whoever makes requests that need much memory asks here whether those
that he made before are on their way.


One chat request in, the answer of one of several OpenAI-compatible servers out. The only home of the openai package.

A server that fails rests, longer each time, and the others take its requests. What a server says that is no answer (an
error, half a body, something that is not JSON) is never handed on: the request is sent again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

import openai
from openai.types.chat import ChatCompletion

from lit_hour.config.videomarathon import ClientConfig
from lit_hour.errors import InvalidResponseError, TeacherError
from lit_hour.videomarathon.response_cache import Response

Result = TypeVar("Result")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks that ends when all are done. When one fails the others are cancelled, and its own error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__


async def gather_all(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The result of each, in order. When one fails the others are cancelled, and its own error is raised."""
    async with task_group() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]


Priority = tuple[int, ...]  # the lowest goes first; of equal ones, who came first


class PrioritySemaphore:
    """So many places, and those who wait for one."""

    def __init__(self, num_places: int) -> None:
        self._num_free = num_places
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._arrivals = count()
        self._someone_left = asyncio.Event()

    @asynccontextmanager
    async def slot(self, urgency: Priority) -> AsyncIterator[None]:
        """Wait for a place, and leave it in the end."""
        if self._num_free:
            self._num_free -= 1
        else:
            await self._wait(urgency)
        try:
            yield
        finally:
            self._leave()

    async def wait_until_drained(self, urgency: Priority) -> None:
        """Wait until nobody waits who is so urgent, or more."""
        while self._waiting and self._waiting[0][0] <= urgency:
            self._someone_left.clear()
            await self._someone_left.wait()

    async def _wait(self, urgency: Priority) -> None:
        turn = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (urgency, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # it was called in the same moment
            raise

    def _leave(self) -> None:
        """Give the place to the most urgent of those who still wait."""
        while self._waiting:
            *_, turn = heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                break
        else:
            self._num_free += 1
        self._someone_left.set()


API_KEY_VARIABLE = (
    "OPENAI_API_KEY"  # of the environment: a key is no setting, for settings are saved
)
RETRYABLE_STATUSES = (408, 409, 425, 429)  # and every status from 500 on
INVALID_REQUEST_STATUSES = (
    400,
    413,
    422,
)  # the request is at fault, such as one that is too long; others may go through
MAX_ERROR_CHARS = 500  # letters of what a server says about a failure; some send whole pages
JITTER = (
    0.75,
    1.25,
)  # share of a rest that is taken, so that many clients do not come back at once


@dataclass
class Endpoint:
    """One server: how busy it is, and until when it rests."""

    url: str
    client: openai.AsyncOpenAI
    num_in_flight: int = 0
    num_failures: int = 0  # one after the other
    backoff_until: float = 0.0

    def back_off(
        self, started: float, settings: ClientConfig, retry_after_seconds: float | None
    ) -> None:
        """Rest after a failure. Requests that were on their way when the rest began do not make it longer."""
        if started < self.backoff_until:
            return
        doubled = settings.backoff_seconds * 2.0 ** min(self.num_failures, 30)
        seconds = min(doubled * random.uniform(*JITTER), settings.max_backoff_seconds)
        self.backoff_until = time.monotonic() + max(
            seconds, min(retry_after_seconds or 0.0, settings.max_backoff_seconds)
        )
        self.num_failures += 1


@dataclass
class UsageStats:
    """What passed between us and the servers; `failures` by their kind, such as "429" or "APIConnectionError"."""

    num_answered: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class ClientPool:
    """Servers that all serve the same model; a request goes to the one that is least busy."""

    def __init__(self, urls: Sequence[str], settings: ClientConfig) -> None:
        """Connect to nothing yet.

        Args:
            urls: of each server, up to and with the version: `http://localhost:8000/v1`.

        Raises:
            TeacherError: a URL is none.
        """
        if wrong := [url for url in urls if not url.startswith(("http://", "https://"))]:
            raise TeacherError(
                f"--teacher {wrong[0]}: give the URL of a chat server, such as http://localhost:8000/v1"
            )
        api_key = os.environ.get(API_KEY_VARIABLE) or "none"
        self.settings = settings
        self.usage = UsageStats()
        self.started = time.monotonic()
        self.slots = PrioritySemaphore(settings.max_concurrent_requests)
        self._endpoints = [
            Endpoint(
                url,
                openai.AsyncOpenAI(
                    base_url=url, api_key=api_key, timeout=settings.timeout_seconds, max_retries=0
                ),
            )
            for url in urls
        ]

    async def close(self) -> None:
        """Close every connection."""
        for server in self._endpoints:
            await server.client.close()

    async def chat(self, body: dict[str, Any], key: str, urgency: Priority = ()) -> Response:
        """Have a request answered.

        Args:
            body: of the request, as `chat/completions` takes it.
            key: of the request; a server that knows idempotency keys computes an answer that got lost only once.
            urgency: place of the request among those that wait; the lowest is sent first.

        Raises:
            TeacherError: no server answers, or one refuses every request: a wrong key, no such model.
            InvalidResponseError: a server refuses this request, or does not answer it while others are answered.
        """
        async with self.slots.slot(urgency):
            num_sent, num_answered = 0, self.usage.num_answered
            while True:
                server, started = await self._wait_for_server(), time.monotonic()
                server.num_in_flight += 1
                num_sent += 1
                try:
                    completion = await server.client.post(  # chat.completions.create spends 5 ms on the types of the body
                        "/chat/completions",
                        cast_to=ChatCompletion,
                        body=body,
                        options={"headers": {"Idempotency-Key": key}},
                    )
                    reply = parse_completion(completion)
                except (openai.APIError, ValueError) as error:
                    self._take_failure(server, started, error)
                    if num_sent > self.settings.max_retries:
                        raise self._give_up(server, error, num_sent, num_answered) from error
                    continue
                finally:
                    server.num_in_flight -= 1
                server.num_failures = 0
                self._count(reply)
                return reply

    async def _wait_for_server(self) -> Endpoint:
        """The least busy one of those that do not rest; the first that has rested, when all do."""
        while True:
            now = time.monotonic()
            awake = [server for server in self._endpoints if server.backoff_until <= now]
            if awake:
                return min(awake, key=lambda server: server.num_in_flight)
            await asyncio.sleep(min(server.backoff_until for server in self._endpoints) - now)

    def _take_failure(
        self, server: Endpoint, started: float, error: openai.APIError | ValueError
    ) -> None:
        """Let the server rest, or raise what asking again cannot mend."""
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        self.usage.failures[str(status or type(error).__name__)] += 1
        if status is not None and status < 500 and status not in RETRYABLE_STATUSES:
            if status in INVALID_REQUEST_STATUSES:
                raise InvalidResponseError(
                    f"{server.url} refuses a request ({status}): {error_text(error)}"
                ) from error
            hint = f"; set {API_KEY_VARIABLE} in the environment" if status == 401 else ""
            raise TeacherError(
                f"{server.url} refuses requests ({status}): {error_text(error)}{hint}"
            ) from error
        server.back_off(started, self.settings, retry_after_seconds(error))

    def _give_up(
        self,
        server: Endpoint,
        error: openai.APIError | ValueError,
        num_sent: int,
        num_answered: int,
    ) -> InvalidResponseError | TeacherError:
        """What is wrong when a request was sent often enough: it, if others were answered since, or the servers."""
        fault = f"{server.url} did not answer a request that was sent {num_sent} times ({error_text(error)})"
        if num_others := self.usage.num_answered - num_answered:
            return InvalidResponseError(f"{fault}, while {num_others} others were answered")
        return TeacherError(
            f"{fault}; see to the server and run the same command again: it goes on where it was"
        )

    def describe(self) -> str:
        """What passed so far, in a few words."""
        tally = self.usage
        rate = tally.num_answered / max(time.monotonic() - self.started, 1e-3)
        tokens = (tally.prompt_tokens + tally.answer_tokens) / 1e6
        cost = self.settings.cost(tally.prompt_tokens, tally.answer_tokens)
        failures = "".join(f", {number} x {kind}" for kind, number in tally.failures.items())
        return f"{tally.num_answered} answers, {rate:.1f}/s, {tokens:.2f}M tokens, cost {cost:.2f}{failures}"

    def _count(self, reply: Response) -> None:
        self.usage.num_answered += 1
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.answer_tokens += reply.answer_tokens


def parse_completion(completion: Any) -> Response:
    """The answer in what the client made of a response.

    Raises:
        ValueError: the response is not what a chat server sends.
    """
    try:
        choice, usage = completion.choices[0], completion.usage
        return Response(
            text=str(choice.message.content or ""),
            finish_reason=str(choice.finish_reason or ""),
            prompt_tokens=int(usage.prompt_tokens or 0) if usage else 0,
            answer_tokens=int(usage.completion_tokens or 0) if usage else 0,
        )
    except (
        AttributeError,
        TypeError,
        IndexError,
    ) as error:  # the client takes any JSON, whatever is in it
        raise ValueError(
            f"the response is no chat completion: {str(completion)[:200]!r}"
        ) from error


def error_text(error: openai.APIError | ValueError) -> str:
    """What a server says about a failure, as it says it: the client knows only one of the places where servers put it."""
    said = error.response.text.strip() if isinstance(error, openai.APIStatusError) else ""
    return said[:MAX_ERROR_CHARS] or str(error)


def retry_after_seconds(error: openai.APIError | ValueError) -> float | None:
    """How long a server asks to be left alone, in its Retry-After header."""
    if not isinstance(error, openai.APIStatusError):
        return None
    wish = error.response.headers.get("retry-after", "")
    return float(wish) if wish.replace(".", "", 1).isdigit() else None
