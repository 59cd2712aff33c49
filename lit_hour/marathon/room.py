"""Requests in, a place for each among those that are in flight out, in the order of their urgency.

There are as many places as requests may be in flight. Whoever makes requests asks here whether more are wanted: so there are
always some that wait for a place, and never many.
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
        self.num_places = num_places
        self._num_free = num_places
        self._waiting: list[tuple[Urgency, int, asyncio.Future[None]]] = []
        self._arrivals = count()
        self._more_wanted = asyncio.Event()

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

    async def more_wanted(self) -> None:
        """Wait until fewer requests wait than there are places."""
        while len(self._waiting) >= self.num_places:
            self._more_wanted.clear()
            await self._more_wanted.wait()

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
        if len(self._waiting) < self.num_places:
            self._more_wanted.set()
