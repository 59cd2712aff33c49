"""Coroutines in, their results out, all of them at work at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


@asynccontextmanager
async def working_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks that ends when all are done. When one fails the others are cancelled, and its own error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__


async def together(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The result of each, in order. When one fails the others are cancelled, and its own error is raised."""
    async with working_group() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]
