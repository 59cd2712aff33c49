"""Work for a client, and whether the client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from lit_hour.serving.server.refusal import RefusedError

Result = TypeVar("Result")

CLIENT_LEFT = 499  # as nginx logs it; nobody receives it


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work that is stopped when the client leaves. The body of the request has to be read before.

    Raises:
        RefusedError: the client left.
    """
    task, leaving = asyncio.create_task(work), asyncio.create_task(_leave(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RefusedError(CLIENT_LEFT, "the client left")
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
