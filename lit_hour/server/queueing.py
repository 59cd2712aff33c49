"""Work for the model and for clients: a single-threaded executor, a limit, cancellation.

Entry points: `ModelExecutor`, `AdmissionLimit` and `cancel_on_disconnect`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from fastapi import HTTPException, Request

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CLIENT_CLOSED_REQUEST = 499  # as nginx logs it; no client receives it


class ModelExecutor:
    """The only thread that runs the model, one short step at a time: a token, or a chunk of frames.

    Callers submit their steps one by one, so that answers, encoding and evidence interleave.
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


class AdmissionLimit:
    """Limits how many requests of a kind are served at the same time; none waits.

    Attributes:
        in_system: requests that are served.
    """

    def __init__(self, limit: int, noun: str) -> None:
        """Args: noun: names the requests in the error message."""
        self.in_system = 0
        self._limit, self._noun = limit, noun

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Count a request for the duration of the block.

        Raises:
            HTTPException: 429, too many are served already.
        """
        if self.in_system >= self._limit:
            raise HTTPException(
                429,
                f"The queue is full with {self.in_system} {self._noun}. Try again later.",
                {"Retry-After": "1"},
            )
        self.in_system += 1
        try:
            yield
        finally:
            self.in_system -= 1


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


def client_address(request: Request) -> str:
    """Return the address of a client, by which clients take turns; a local proxy forwards it."""
    return request.client.host if request.client is not None else ""


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _retrieve_exception(task: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging the exception of a task that was cancelled."""
    if not task.cancelled():
        task.exception()
