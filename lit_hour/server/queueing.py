"""Admission control: a single-threaded model executor, and queues of bounded length before it.

Entry points: `ModelExecutor`, `BoundedQueue` and `cancel_on_disconnect`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from fastapi import HTTPException, Request

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CLIENT_CLOSED_REQUEST = 499  # as nginx logs it; no client receives it
MAX_RETRY_AFTER_SECONDS = 600
_EMA_WEIGHT = 0.2  # of the latest run in the moving average of run times


class ModelExecutor:
    """The only thread that runs the model, one short step at a time: a token, or a chunk of frames.

    Callers submit their steps one by one, so that the steps of several requests interleave.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "model")

    def submit(
        self,
        step: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Future[Result]:
        """Schedule a step after those that were submitted before it."""
        return self._executor.submit(step, *args, **kwargs)

    async def run(
        self,
        step: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Return the result of a step; cancelling the caller also cancels a step that waits."""
        return await asyncio.wrap_future(self.submit(step, *args, **kwargs))

    def close(self) -> None:
        """Cancel the steps that wait."""
        self._executor.shutdown(cancel_futures=True)


class BoundedQueue:
    """Limits how many requests run at the same time and how many wait.

    Attributes:
        in_system: requests that run or wait.
        running: requests that run.
    """

    def __init__(self, max_running: int, max_waiting: int, noun: str) -> None:
        """Args: noun: names the requests in the error message."""
        self.in_system = self.running = 0
        self._max_running, self._max_waiting, self._noun = max_running, max_waiting, noun
        self._run_slots = asyncio.Semaphore(max_running)
        self._mean_seconds = 1.0  # moving average of the time that a request runs

    def check_capacity(self) -> None:
        """Check that one more request can be admitted.

        Raises:
            HTTPException: 429, the queue is full.
        """
        if self.in_system >= self._max_running + self._max_waiting:
            expected_seconds = self._mean_seconds * self.in_system / self._max_running
            retry_after = max(1, min(math.ceil(expected_seconds), MAX_RETRY_AFTER_SECONDS))
            raise HTTPException(
                429,
                f"The queue is full with {self.in_system} {self._noun}. Try again later.",
                {"Retry-After": str(retry_after)},
            )

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Count a request as in the system for the duration of the block.

        Raises:
            HTTPException: as `check_capacity`.
        """
        self.check_capacity()
        self.in_system += 1
        try:
            yield
        finally:
            self.in_system -= 1

    @asynccontextmanager
    async def run_slot(self) -> AsyncIterator[None]:
        """Wait until an admitted request may run, and count it as running during the block."""
        async with self._run_slots:
            started = time.monotonic()
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
                seconds = time.monotonic() - started
                self._mean_seconds += _EMA_WEIGHT * (seconds - self._mean_seconds)


async def cancel_on_disconnect(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of `work`, which is cancelled when the client disconnects.

    The body of the request must be read before.

    Raises:
        HTTPException: 499, the client disconnected.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HTTPException(CLIENT_CLOSED_REQUEST, "The client disconnected.")
    finally:
        disconnect.cancel()
        if not task.done():
            task.add_done_callback(_retrieve_exception)
            task.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _retrieve_exception(task: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging the exception of a task that was cancelled."""
    if not task.cancelled():
        task.exception()
