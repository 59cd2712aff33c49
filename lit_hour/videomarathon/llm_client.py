"""Client of one or more OpenAI-compatible chat servers: `ClientPool`. Only home of `openai`.

A server that fails is left alone for a while, longer each time (exponential backoff), and the
others take its requests. A response that is not a chat completion (an error, half a body,
invalid JSON) is never returned: the request is sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
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
from lit_hour.videomarathon.response_cache import Response, ResponseCache

API_KEY_VARIABLE = "OPENAI_API_KEY"  # in the environment and not in the config, which is saved
RETRYABLE_STATUSES = (408, 409, 425, 429)  # and every status from 500 on
# The request itself is invalid, for example too long. Others may succeed.
INVALID_REQUEST_STATUSES = (400, 413, 422)
MAX_ERROR_CHARS = 500  # of a server's error message; some send whole pages
JITTER = (0.75, 1.25)  # random factor of the backoff, so that clients do not return all at once

Result = TypeVar("Result")
Priority = tuple[int, ...]  # lowest first; first come, first served among equals


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Run an `asyncio.TaskGroup` that raises the first error itself, not in an `ExceptionGroup`."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__


async def gather_all(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return the results in order. If one fails, cancel the others and raise its error."""
    async with task_group() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]


class PrioritySemaphore:
    """Semaphore that gives a free slot to the waiter with the lowest priority number."""

    def __init__(self, num_slots: int) -> None:
        self._num_free = num_slots
        self._waiters: list[tuple[Priority, int, asyncio.Future[None]]] = []  # a heap
        self._arrivals = count()
        self._slot_released = asyncio.Event()

    @asynccontextmanager
    async def slot(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a slot and hold it within the context."""
        if self._num_free:
            self._num_free -= 1
        else:
            await self._wait(priority)
        try:
            yield
        finally:
            self._release()

    async def wait_until_drained(self, priority: Priority) -> None:
        """Wait until no waiter has this priority number or a lower one."""
        while self._waiters and self._waiters[0][0] <= priority:
            self._slot_released.clear()
            await self._slot_released.wait()

    async def _wait(self, priority: Priority) -> None:
        turn = asyncio.get_running_loop().create_future()
        heappush(self._waiters, (priority, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # it got the slot at the moment of the cancellation
            raise

    def _release(self) -> None:
        """Hand the slot to the first waiter that has not been cancelled."""
        while self._waiters:
            *_, turn = heappop(self._waiters)
            if not turn.done():
                turn.set_result(None)
                break
        else:
            self._num_free += 1
        self._slot_released.set()


@dataclass
class Endpoint:
    """One server: its load, and until when it gets no requests."""

    url: str
    client: openai.AsyncOpenAI
    num_in_flight: int = 0
    num_failures: int = 0  # consecutive
    backoff_until: float = 0.0

    def back_off(
        self, sent_at: float, config: ClientConfig, retry_after_seconds: float | None
    ) -> None:
        """Back off after a failure. Requests sent before an ongoing backoff do not extend it."""
        if sent_at < self.backoff_until:
            return
        doubled = config.backoff_seconds * 2.0 ** min(self.num_failures, 30)
        seconds = min(doubled * random.uniform(*JITTER), config.max_backoff_seconds)
        retry_after = min(retry_after_seconds or 0.0, config.max_backoff_seconds)
        self.backoff_until = time.monotonic() + max(seconds, retry_after)
        self.num_failures += 1


@dataclass
class UsageStats:
    """Responses and tokens so far; failures by kind, such as "429" or "APIConnectionError"."""

    num_responses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class ClientPool:
    """Clients of several servers of the same model; a request goes to the least busy one."""

    def __init__(self, urls: Sequence[str], config: ClientConfig) -> None:
        """Create the clients; nothing is connected yet.

        Args:
            urls: of the servers, up to and including the version: `http://localhost:8000/v1`.
            config: limits, timeouts and prices.

        Raises:
            TeacherError: a URL is invalid.
        """
        if invalid := [url for url in urls if not url.startswith(("http://", "https://"))]:
            raise TeacherError(
                f"--teacher {invalid[0]} is not a URL. Give the URL of a chat server, such as"
                " http://localhost:8000/v1."
            )
        api_key = os.environ.get(API_KEY_VARIABLE) or "none"
        self.config = config
        self.usage = UsageStats()
        self.started_at = time.monotonic()
        self.slots = PrioritySemaphore(config.max_concurrent_requests)
        self._endpoints = [
            Endpoint(
                url,
                openai.AsyncOpenAI(
                    base_url=url, api_key=api_key, timeout=config.timeout_seconds, max_retries=0
                ),
            )
            for url in urls
        ]

    async def close(self) -> None:
        """Close every connection."""
        for endpoint in self._endpoints:
            await endpoint.client.close()

    async def cached_chat(
        self, body: dict[str, Any], cache: ResponseCache, priority: Priority = ()
    ) -> Response:
        """Return the response to a request from a cache, or from a server: then it is added.

        The key of both is the hash of the body. Other arguments and errors are as in `chat`.
        """
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        response = cache.get(key)
        if response is None:
            response = await self.chat(body, key, priority)
            await cache.add(key, response)
        return response

    async def chat(self, body: dict[str, Any], key: str, priority: Priority = ()) -> Response:
        """Send a request until it is answered.

        Args:
            body: of the request, as `chat/completions` takes it.
            key: idempotency key; a server that supports it computes a lost response only once.
            priority: order among waiting requests; the lowest is sent first.

        Raises:
            TeacherError: no server answers, or one refuses every request (wrong key, unknown
                model).
            InvalidResponseError: a server refuses this request, or never answers it while it
                answers others.
        """
        async with self.slots.slot(priority):
            num_sent, num_responses_before = 0, self.usage.num_responses
            while True:
                endpoint, sent_at = await self._next_endpoint(), time.monotonic()
                endpoint.num_in_flight += 1
                num_sent += 1
                try:
                    # chat.completions.create would spend 5 ms on the types of the body.
                    completion = await endpoint.client.post(
                        "/chat/completions",
                        cast_to=ChatCompletion,
                        body=body,
                        options={"headers": {"Idempotency-Key": key}},
                    )
                    response = parse_completion(completion)
                except (openai.APIError, ValueError) as error:
                    self._handle_failure(endpoint, sent_at, error)
                    if num_sent > self.config.max_retries:
                        num_others = self.usage.num_responses - num_responses_before
                        raise _give_up_error(endpoint, error, num_sent, num_others) from error
                    continue
                finally:
                    endpoint.num_in_flight -= 1
                endpoint.num_failures = 0
                self.usage.num_responses += 1
                self.usage.prompt_tokens += response.prompt_tokens
                self.usage.completion_tokens += response.completion_tokens
                return response

    def describe(self) -> str:
        """Return the usage so far in one line, for the progress bar."""
        usage = self.usage
        rate = usage.num_responses / max(time.monotonic() - self.started_at, 1e-3)
        tokens = (usage.prompt_tokens + usage.completion_tokens) / 1e6
        cost = self.config.cost(usage.prompt_tokens, usage.completion_tokens)
        failures = "".join(f", {number} x {kind}" for kind, number in usage.failures.items())
        return (
            f"{usage.num_responses} responses, {rate:.1f}/s, {tokens:.2f}M tokens, cost {cost:.2f}"
            f"{failures}"
        )

    async def _next_endpoint(self) -> Endpoint:
        """Return the least busy endpoint, after a wait if all of them are backing off."""
        while True:
            now = time.monotonic()
            available = [endpoint for endpoint in self._endpoints if endpoint.backoff_until <= now]
            if available:
                return min(available, key=lambda endpoint: endpoint.num_in_flight)
            await asyncio.sleep(min(endpoint.backoff_until for endpoint in self._endpoints) - now)

    def _handle_failure(
        self, endpoint: Endpoint, sent_at: float, error: openai.APIError | ValueError
    ) -> None:
        """Back off from the endpoint, or raise if sending the request again cannot succeed."""
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        self.usage.failures[str(status or type(error).__name__)] += 1
        if status is not None and status < 500 and status not in RETRYABLE_STATUSES:
            if status in INVALID_REQUEST_STATUSES:
                raise InvalidResponseError(
                    f"{endpoint.url} refuses a request ({status}): {error_text(error)}"
                ) from error
            hint = f". Set {API_KEY_VARIABLE} in the environment." if status == 401 else ""
            raise TeacherError(
                f"{endpoint.url} refuses requests ({status}): {error_text(error)}{hint}"
            ) from error
        endpoint.back_off(sent_at, self.config, retry_after_seconds(error))


def _give_up_error(
    endpoint: Endpoint, error: openai.APIError | ValueError, num_sent: int, num_others: int
) -> InvalidResponseError | TeacherError:
    """Return the error of a request that was sent too often.

    The request is to blame if `num_others`, the number of responses to other requests since it was
    first sent, is positive; otherwise the servers are.
    """
    fault = (
        f"{endpoint.url} did not answer a request that was sent {num_sent} times"
        f" ({error_text(error)})"
    )
    if num_others:
        return InvalidResponseError(f"{fault}, while {num_others} others were answered.")
    return TeacherError(f"{fault}. Check the server and run the same command again to continue.")


def parse_completion(completion: Any) -> Response:
    """Return the response in an object that the client made of a server's JSON.

    Raises:
        ValueError: the object is not a chat completion.
    """
    try:
        choice, usage = completion.choices[0], completion.usage
        return Response(
            text=str(choice.message.content or ""),
            finish_reason=str(choice.finish_reason or ""),
            prompt_tokens=int(usage.prompt_tokens or 0) if usage else 0,
            completion_tokens=int(usage.completion_tokens or 0) if usage else 0,
        )
    except (AttributeError, TypeError, IndexError) as error:  # the client accepts any JSON
        raise ValueError(
            f"The response is not a chat completion: {str(completion)[:200]!r}."
        ) from error


def error_text(error: openai.APIError | ValueError) -> str:
    """Return the body of an error response, or the error itself.

    The client's message shows only one of the several fields in which servers explain an error.
    """
    body = error.response.text.strip() if isinstance(error, openai.APIStatusError) else ""
    return body[:MAX_ERROR_CHARS] or str(error)


def retry_after_seconds(error: openai.APIError | ValueError) -> float | None:
    """Return the wait that a server requests in its Retry-After header, in seconds."""
    if not isinstance(error, openai.APIStatusError):
        return None
    value = error.response.headers.get("retry-after", "")
    return float(value) if value.replace(".", "", 1).isdigit() else None
