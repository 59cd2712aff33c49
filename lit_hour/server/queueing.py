"""Work in, results out: one thread for the model, and a line before it that is no longer than it may be.

Work for a client, and whether the client is still there."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from fastapi import Request

from lit_hour.server.http_errors import HTTPRefusal

Given = ParamSpec("Given")
Result = TypeVar("Result")

_WEIGHT_OF_THE_LAST = 0.2  # in the mean time of a turn


class ModelExecutor:
    """The only thread in which the model computes, one short step after another: a token, or a chunk of frames.

    Those who want several steps ask for them one by one, so that all of them go on side by side.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "model")

    def submit(
        self, step: Callable[Given, Result], *given: Given.args, **named: Given.kwargs
    ) -> Future[Result]:
        """Do a step when those before it are done."""
        return self._executor.submit(step, *given, **named)

    async def run(
        self, step: Callable[Given, Result], *given: Given.args, **named: Given.kwargs
    ) -> Result:
        """The result of a step; a step whose caller is cancelled while it waits is left out."""
        return await asyncio.wrap_future(self.submit(step, *given, **named))

    def close(self) -> None:
        """Leave out the steps that wait."""
        self._executor.shutdown(cancel_futures=True)


class BoundedQueue:
    """Those whose turn it is, and those who wait for it.

    Attributes:
        num_in: of both.
        num_served: whose turn it is.
    """

    def __init__(self, turns_at_once: int, may_wait: int, what: str) -> None:
        self.in_system = self.running = 0
        self._turns_at_once, self._may_wait, self._what = turns_at_once, may_wait, what
        self._turns = asyncio.Semaphore(turns_at_once)
        self._mean_seconds = 1.0

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """A place in the line.

        Raises:
            RefusedError: 429, there is none.
        """
        if self.in_system >= self._turns_at_once + self._may_wait:
            wait_seconds = self._mean_seconds * self.in_system / self._turns_at_once
            reason = f"{self.in_system} {self._what} are on their way, and no more may wait: try again later"
            raise HTTPRefusal(429, reason, max(1, min(math.ceil(wait_seconds), 600)))
        self.in_system += 1
        try:
            yield
        finally:
            self.in_system -= 1

    @asynccontextmanager
    async def run_slot(self) -> AsyncIterator[None]:
        """The turn of one who has a place."""
        async with self._turns:
            started = time.monotonic()
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
                self._mean_seconds += _WEIGHT_OF_THE_LAST * (
                    time.monotonic() - started - self._mean_seconds
                )


CLIENT_CLOSED_REQUEST = 499  # as nginx logs it; nobody receives it


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work that is stopped when the client leaves. The body of the request has to be read before.

    Raises:
        RefusedError: the client left.
    """
    task, leaving = asyncio.create_task(work), asyncio.create_task(_leave(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HTTPRefusal(CLIENT_CLOSED_REQUEST, "the client left")
    finally:
        leaving.cancel()
        if not task.done():
            task.add_done_callback(_forget)
            task.cancel()


async def _leave(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _forget(task: asyncio.Task[Any]) -> None:
    """Nobody is there to hear what went wrong with it."""
    if not task.cancelled():
        task.exception()
