"""Admission control: turns, memory, and the time that a refused client is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from fastapi import HTTPException

from lit_hour.config.serving import ServerConfig
from lit_hour.server.admission import (
    MAX_RETRY_AFTER_SECONDS,
    AdmissionQueue,
    ByteBudget,
    FairQueue,
    Throughput,
)


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def order_of_turns(
    clients: Sequence[str], max_running: int = 1, cancelled: Sequence[int] = ()
) -> list[str]:
    """Return the clients in the order of their turns; some requests are cancelled as they wait."""

    async def run() -> list[str]:
        queue, order = FairQueue(max_running), list[str]()

        async def request(client: str) -> None:
            async with queue.turn(client):
                assert queue.running <= max_running
                order.append(client)
                await asyncio.sleep(0)

        async with queue.turn("first"):
            tasks = [asyncio.create_task(request(client)) for client in clients]
            await asyncio.sleep(0)
            for index in cancelled:
                tasks[index].cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.running == 0
        return order

    return asyncio.run(run())


def test_clients_take_turns_whatever_they_send() -> None:
    assert "".join(order_of_turns("aaaaabbc")) == "abcabaaa"
    assert "".join(order_of_turns("aaab", cancelled=[0, 1])) == "ab"
    assert sorted(order_of_turns("aabbcc", max_running=3)) == list("aabbcc")


def test_a_request_cancelled_with_its_turn_passes_it_on() -> None:
    async def run() -> None:
        queue = FairQueue(1)
        entered = asyncio.Event()

        async def request() -> None:
            async with queue.turn("a"):
                entered.set()
                await asyncio.sleep(60)

        running, waiting = asyncio.create_task(request()), asyncio.create_task(request())
        await entered.wait()
        entered.clear()
        running.cancel()
        await asyncio.wait_for(entered.wait(), 10)
        assert queue.running == 1
        waiting.cancel()
        await asyncio.wait([running, waiting])
        assert queue.running == 0

    asyncio.run(run())


def test_a_turn_given_to_a_task_that_is_cancelled_in_the_same_moment_is_not_lost() -> None:
    async def run() -> None:
        queue = FairQueue(1)

        async def request() -> None:
            async with queue.turn("a"):
                pass

        async with queue.turn("a"):
            task = asyncio.create_task(request())
            await asyncio.sleep(0)
            early = asyncio.create_task(request())
            await asyncio.sleep(0)
            early.cancel()  # and it does not run before the turn ends
        task.cancel()  # its turn was given, and it did not run since
        await asyncio.wait([task, early])
        assert queue.running == 0
        await asyncio.wait_for(request(), 10)

    asyncio.run(run())


def test_memory_is_given_in_order_and_never_beyond_the_budget() -> None:
    async def run() -> None:
        budget, order, largest = ByteBudget(10), list[int](), [0]

        async def hold(number: int, num_bytes: int) -> None:
            async with budget.hold(number, num_bytes):
                order.append(number)
                largest[0] = max(largest[0], budget.num_bytes)
                await asyncio.sleep(0.001)

        sizes = [4, 4, 8, 1, 1, 25, 3, 10]
        await asyncio.gather(*[hold(number, size) for number, size in enumerate(sizes)])
        assert order == sorted(order) and largest[0] == 25  # a larger one alone
        assert budget.num_bytes == 0

    asyncio.run(run())


def test_holders_of_one_key_share_its_bytes() -> None:
    async def run() -> None:
        budget = ByteBudget(10)
        async with budget.hold("video", 8), budget.hold("video", 9):  # it has grown
            assert budget.num_bytes == 8
            other = asyncio.create_task(budget.hold("other", 3).__aenter__())
            await asyncio.sleep(0)
            assert not other.done() and budget.num_bytes == 8
            other.cancel()
        await asyncio.wait([other])
        async with budget.hold("other", 3):
            assert budget.num_bytes == 3

    asyncio.run(run())


def test_throughput_counts_the_seconds_in_which_requests_run() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    assert throughput.expected_seconds(100) == 0.0  # nothing was measured
    for _ in range(1000):
        clock.seconds += 0.1
        throughput.add(5)
    assert throughput.expected_seconds(100) == pytest.approx(2.0, rel=0.01)
    clock.seconds += 3600.0  # no request
    throughput.start()
    for _ in range(3000):
        clock.seconds += 0.1
        throughput.add(1)
    assert throughput.expected_seconds(100) == pytest.approx(10.0, rel=0.05)


def test_a_refused_client_is_told_when_to_come_back() -> None:
    clock = Clock()
    settings = ServerConfig(max_concurrent_requests=2, max_queue_length=8, max_wait_seconds=20.0)
    queue = AdmissionQueue(settings)
    queue.throughput = Throughput(clock)
    with queue.admit(100) as first, queue.admit(100):
        queue.check_capacity()  # nothing is known of the time yet
        for _ in range(100):
            clock.seconds += 0.1
            queue.throughput.add(1)  # 10 tokens/s, 200 are queued
        with queue.admit(70), pytest.raises(HTTPException) as refused:
            queue.check_capacity()
        assert refused.value.status_code == 429 and "27 s" in str(refused.value.detail)
        assert refused.value.headers == {"Retry-After": "7"}  # then it would be 20 s
        for _ in range(70):
            first.count_token()
        with queue.admit(70):
            queue.check_capacity()
        with queue.admit(10**9), pytest.raises(HTTPException) as refused:
            queue.check_capacity()
        assert refused.value.headers == {"Retry-After": str(MAX_RETRY_AFTER_SECONDS)}
    assert queue.in_system == 0 and queue.expected_seconds == 0.0


def test_answers_are_expected_to_be_as_long_as_those_before() -> None:
    queue = AdmissionQueue(ServerConfig())
    with queue.admit(1000) as admitted:
        assert admitted.num_tokens_left == 1000
        for _ in range(10):
            admitted.count_token()
    with queue.admit(1000) as admitted, queue.admit(4) as short:
        assert admitted.num_tokens_left == pytest.approx(10) and short.num_tokens_left == 4
