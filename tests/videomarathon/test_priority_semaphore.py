"""Places for requests: who is let in when, and who still waits."""

import asyncio
from contextlib import suppress

from lit_hour.videomarathon.llm_client import PrioritySemaphore


def let_in(urgencies: list[tuple[int, ...]], num_places: int) -> tuple[list[tuple[int, ...]], int]:
    """In which order those are let in who all come at once, and how many were inside together."""
    order: list[tuple[int, ...]] = []
    inside = most = 0

    async def visit(room: PrioritySemaphore, urgency: tuple[int, ...]) -> None:
        nonlocal inside, most
        async with room.slot(urgency):
            order.append(urgency)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async def run() -> None:
        room = PrioritySemaphore(num_places)
        await asyncio.gather(*(visit(room, urgency) for urgency in urgencies))

    asyncio.run(run())
    return order, most


def test_the_lowest_goes_first_and_of_equal_ones_who_came_first() -> None:
    order, most = let_in([(9, 9), (5, 2), (0, 7), (5, 1), (0, 3), (5, 1, 1)], 1)
    assert order == [
        (9, 9),
        (0, 3),
        (0, 7),
        (5, 1),
        (5, 1, 1),
        (5, 2),
    ]  # the first found an empty room
    assert most == 1


def test_no_place_is_left_empty_while_somebody_waits() -> None:
    order, most = let_in([(number,) for number in range(50)], 8)
    assert sorted(order) == [(number,) for number in range(50)] and most == 8


def test_who_asks_whether_anyone_waits_hears_of_the_urgent_alone() -> None:
    async def run() -> None:
        room, ends = PrioritySemaphore(1), [asyncio.Event() for _ in range(3)]

        async def visit(urgency: tuple[int, ...], end: asyncio.Event) -> None:
            async with room.slot(urgency):
                await end.wait()

        visits = [
            asyncio.create_task(visit(urgency, end))
            for urgency, end in zip([(0, 1), (0, 2), (5, 1)], ends, strict=True)
        ]
        await asyncio.sleep(0)
        asked = asyncio.create_task(room.wait_until_drained((0, 9)))
        await asyncio.wait_for(room.wait_until_drained((0, 1)), 1)
        await asyncio.sleep(0.01)
        assert not asked.done()
        ends[0].set()
        await asyncio.wait_for(asked, 1)  # (0, 2) is inside, and (5, 1) is not so urgent
        for end in ends:
            end.set()
        await asyncio.gather(*visits)

    asyncio.run(run())


def test_who_gives_up_takes_no_place_along() -> None:
    async def run() -> None:
        room = PrioritySemaphore(1)

        async def visit(seconds: float) -> None:
            async with room.slot(()):
                await asyncio.sleep(seconds)

        inside, called, waiting = (
            asyncio.create_task(visit(seconds)) for seconds in (0.0, 10.0, 0.0)
        )
        await asyncio.sleep(0)
        late = asyncio.create_task(visit(0.0))
        await asyncio.sleep(0)
        late.cancel()  # while it waits
        await inside
        called.cancel()  # it has been called in this moment, or is inside
        await asyncio.wait_for(waiting, 1)
        await asyncio.wait_for(visit(0.0), 1)
        for task in (late, called):
            with suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()

    asyncio.run(run())
