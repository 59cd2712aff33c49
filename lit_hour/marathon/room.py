"""Requests in, a place for each among those that are in flight out, in the order of their urgency.

There are as many places as requests may be in flight. Whoever makes requests that need much memory asks here whether those
that he made before are on their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count

Urgency = tuple[int, ...]  # the lowest goes first; of equal ones, who came first


class Room:
    """So many places, and those who wait for one."""

    def __init__(self, num_places: int) -> None:
        self._num_free = num_places
        self._waiting: list[tuple[Urgency, int, asyncio.Future[None]]] = []
        self._arrivals = count()
        self._someone_left = asyncio.Event()

    @asynccontextmanager
    async def place(self, urgency: Urgency) -> AsyncIterator[None]:
        """Wait for a place, and leave it in the end."""
        if self._num_free:
            self._num_free -= 1
        else:
            await self._wait(urgency)
        try:
            yield
        finally:
            self._leave()

    async def none_waits(self, urgency: Urgency) -> None:
        """Wait until nobody waits who is so urgent, or more."""
        while self._waiting and self._waiting[0][0] <= urgency:
            self._someone_left.clear()
            await self._someone_left.wait()

    async def _wait(self, urgency: Urgency) -> None:
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
