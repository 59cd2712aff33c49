"""Which waiter gets a slot of the semaphore, and when none is left waiting."""

import asyncio
from contextlib import suppress

from lit_hour.videomarathon.llm_client import Priority, PrioritySemaphore


def run_all(priorities: list[Priority], num_slots: int) -> tuple[list[Priority], int]:
    """Let concurrent tasks take a slot; return their order and how many held one together."""
    order: list[Priority] = []
    num_inside = most = 0

    async def hold_slot(semaphore: PrioritySemaphore, priority: Priority) -> None:
        nonlocal num_inside, most
        async with semaphore.slot(priority):
            order.append(priority)
            num_inside += 1
            most = max(most, num_inside)
            await asyncio.sleep(0)
            num_inside -= 1

    async def run() -> None:
        semaphore = PrioritySemaphore(num_slots)
        await asyncio.gather(*(hold_slot(semaphore, priority) for priority in priorities))

    asyncio.run(run())
    return order, most


def test_lowest_priority_goes_first_then_first_come_first_served() -> None:
    order, most = run_all([(9, 9), (5, 2), (0, 7), (5, 1), (0, 3), (5, 1, 1)], 1)
    # The first one found a free slot.
    assert order == [(9, 9), (0, 3), (0, 7), (5, 1), (5, 1, 1), (5, 2)]
    assert most == 1


def test_all_slots_are_used_while_tasks_wait() -> None:
    order, most = run_all([(number,) for number in range(50)], 8)
    assert sorted(order) == [(number,) for number in range(50)] and most == 8


def test_wait_until_drained_ignores_later_priorities() -> None:
    async def run() -> None:
        semaphore, ends = PrioritySemaphore(1), [asyncio.Event() for _ in range(3)]

        async def hold_slot(priority: Priority, end: asyncio.Event) -> None:
            async with semaphore.slot(priority):
                await end.wait()

        holders = [
            asyncio.create_task(hold_slot(priority, end))
            for priority, end in zip([(0, 1), (0, 2), (5, 1)], ends, strict=True)
        ]
        await asyncio.sleep(0)
        drained = asyncio.create_task(semaphore.wait_until_drained((0, 9)))
        await asyncio.wait_for(semaphore.wait_until_drained((0, 1)), 1)
        await asyncio.sleep(0.01)
        assert not drained.done()
        ends[0].set()
        await asyncio.wait_for(drained, 1)  # (0, 2) holds the slot, and (5, 1) does not count
        for end in ends:
            end.set()
        await asyncio.gather(*holders)

    asyncio.run(run())


def test_cancelled_waiter_releases_its_slot() -> None:
    async def run() -> None:
        semaphore = PrioritySemaphore(1)

        async def hold_slot(seconds: float) -> None:
            async with semaphore.slot(()):
                await asyncio.sleep(seconds)

        holder, next_holder, waiter = (
            asyncio.create_task(hold_slot(seconds)) for seconds in (0.0, 10.0, 0.0)
        )
        await asyncio.sleep(0)
        late = asyncio.create_task(hold_slot(0.0))
        await asyncio.sleep(0)
        late.cancel()  # while it waits
        await holder
        next_holder.cancel()  # it has just been given the slot, or holds it
        await asyncio.wait_for(waiter, 1)
        await asyncio.wait_for(hold_slot(0.0), 1)
        for task in (late, next_holder):
            with suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()

    asyncio.run(run())
