"""Admission control: requests that may wait, their turns, and the memory that they take.

Entry points: `AdmissionQueue`, and `ByteBudget`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from fastapi import HTTPException

from lit_hour.config.serving import ServerConfig

MAX_RETRY_AFTER_SECONDS = 600
THROUGHPUT_SECONDS = 30.0  # age after which a measurement counts 1/e
MIN_MEASURED_SECONDS = 0.5  # of generation, before an expectation is based on it
MEAN_WEIGHT = 0.1  # of the latest request in the moving average of their tokens


class Throughput:
    """Generated tokens per second while requests run, prompts and encoded videos included."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = self._seconds = 0.0
        self._last = clock()

    def start(self) -> None:
        """Begin to measure after a time in which no request ran."""
        self._last = self._clock()

    def add(self, num_tokens: int) -> None:
        """Count the tokens of one more step."""
        now = self._clock()
        elapsed_seconds, self._last = now - self._last, now
        decay = math.exp(-elapsed_seconds / THROUGHPUT_SECONDS)
        self._tokens = self._tokens * decay + num_tokens
        self._seconds = self._seconds * decay + elapsed_seconds

    def expected_seconds(self, num_tokens: float) -> float:
        """Return the time in which some tokens are generated; 0 until enough was measured."""
        if self._seconds < MIN_MEASURED_SECONDS or not self._tokens:
            return 0.0
        return num_tokens * self._seconds / self._tokens


class FairQueue:
    """A limited number of turns, given to the clients round robin.

    The next request of a client waits for one of each other client at most, beside those that run.

    Attributes:
        running: requests that have a turn.
    """

    def __init__(self, max_running: int) -> None:
        self.running = 0
        self._max_running = max_running
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, client: Hashable) -> AsyncIterator[None]:
        """Wait for a turn of a client, and keep it for the duration of the block."""
        ready = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(ready)
        self._give_turns()
        try:
            await ready
            yield
        finally:
            if not ready.cancelled():
                self.running -= 1
            self._give_turns()

    def _give_turns(self) -> None:
        while self._waiting and self.running < self._max_running:
            client, futures = next(iter(self._waiting.items()))
            ready = futures.popleft()
            if not futures:
                del self._waiting[client]
            if ready.cancelled():
                continue
            if futures:
                self._waiting.move_to_end(client)
            ready.set_result(None)
            self.running += 1


class ByteBudget:
    """Memory that holders share, given in the order in which they came.

    A holder that is larger than the budget gets it alone.

    Attributes:
        num_bytes: that are held.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.num_bytes = 0
        self._budget_bytes = budget_bytes
        self._sizes: dict[Hashable, int] = {}
        self._counts: Counter[Hashable] = Counter()  # holders by key
        self._waiting: deque[tuple[asyncio.Future[None], Hashable, int]] = deque()

    @asynccontextmanager
    async def hold(self, key: Hashable, num_bytes: int) -> AsyncIterator[None]:
        """Wait until some bytes fit, and keep them for the duration of the block.

        Args:
            key: of what is held; several holders of one key share its bytes.
            num_bytes: of the key; those of its first holder count.
        """
        ready = asyncio.get_running_loop().create_future()
        self._waiting.append((ready, key, num_bytes))
        self._give()
        try:
            await ready
            yield
        finally:
            if not ready.cancelled():
                self._counts[key] -= 1
                if not self._counts[key]:
                    del self._counts[key]
                    self.num_bytes -= self._sizes.pop(key)
            self._give()

    def _give(self) -> None:
        while self._waiting:
            ready, key, num_bytes = self._waiting[0]
            if ready.cancelled():
                self._waiting.popleft()
                continue
            added = 0 if key in self._sizes else num_bytes
            if self.num_bytes and self.num_bytes + added > self._budget_bytes:
                return
            self._waiting.popleft()
            self._counts[key] += 1
            self._sizes.setdefault(key, num_bytes)
            self.num_bytes += added
            ready.set_result(None)


@dataclass(eq=False)
class Admitted:
    """A request that was admitted.

    Attributes:
        num_tokens_left: that its answers are expected to have still.
        num_tokens: that its answers have so far.
    """

    num_tokens_left: float
    num_tokens: int = 0

    def count_token(self) -> None:
        """Count a token that was generated."""
        self.num_tokens += 1
        self.num_tokens_left = max(1.0, self.num_tokens_left - 1.0)


class AdmissionQueue:
    """Admits requests while the queue is short, in number and in expected seconds.

    Attributes:
        throughput: of the generation, which counts its tokens there.
    """

    def __init__(self, settings: ServerConfig) -> None:
        self.throughput = Throughput()
        self._settings = settings
        self._admitted: set[Admitted] = set()
        self._mean_tokens = 0.0  # of a request, as a moving average
        self._turns = FairQueue(settings.max_concurrent_requests)

    @property
    def in_system(self) -> int:
        """Requests that run or wait."""
        return len(self._admitted)

    @property
    def running(self) -> int:
        """Requests that have a turn."""
        return self._turns.running

    @property
    def expected_seconds(self) -> float:
        """Time until all admitted requests are answered, from measured and queued tokens."""
        num_tokens = sum(admitted.num_tokens_left for admitted in self._admitted)
        return self.throughput.expected_seconds(num_tokens)

    def check_capacity(self) -> None:
        """Check that one more request can be admitted.

        Raises:
            HTTPException: 429, with the seconds until then in `Retry-After`.
        """
        settings, wait_seconds = self._settings, self.expected_seconds
        if self.in_system >= settings.max_concurrent_requests + settings.max_queue_length:
            reason = f"The queue is full with {self.in_system} requests."
            retry_seconds = wait_seconds / self.in_system  # until one of them is answered
        elif wait_seconds > settings.max_wait_seconds:
            reason = (
                f"An answer would take {wait_seconds:.0f} s, longer than"
                f" serving.server.max_wait_seconds={settings.max_wait_seconds:g}."
            )
            retry_seconds = wait_seconds - settings.max_wait_seconds
        else:
            return
        retry_after = max(1, min(math.ceil(retry_seconds), MAX_RETRY_AFTER_SECONDS))
        raise HTTPException(
            429, f"{reason} Try again in {retry_after} s.", {"Retry-After": str(retry_after)}
        )

    @contextmanager
    def admit(self, max_tokens: int = 0) -> Iterator[Admitted]:
        """Count a request as in the system for the duration of the block.

        Args:
            max_tokens: most tokens of its answers.

        Raises:
            HTTPException: as `check_capacity`.
        """
        self.check_capacity()
        admitted = Admitted(min(max_tokens, self._mean_tokens or max_tokens))
        self._admitted.add(admitted)
        try:
            yield admitted
            if admitted.num_tokens:
                mean = self._mean_tokens or admitted.num_tokens
                self._mean_tokens = mean + MEAN_WEIGHT * (admitted.num_tokens - mean)
        finally:
            self._admitted.discard(admitted)

    @asynccontextmanager
    async def turn(self, client: Hashable) -> AsyncIterator[None]:
        """Wait for a turn of an admitted request, and keep it for the duration of the block."""
        async with self._turns.turn(client):
            if self.running == 1:
                self.throughput.start()
            yield
