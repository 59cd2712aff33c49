"""Stopped anywhere and continued by any number of ranks and workers, a run reads exactly the next
samples."""

from collections import Counter
from typing import Any

import pytest

from lit_hour.processor import HourLLaVAProcessor
from tests.data.ranks import data_of_rank, finish_step, resume
from tests.helpers.toy_run import ToyProject

Asked = tuple[int, str, tuple[str, ...]]  # position, key of the subject, ids of the questions
LAYOUTS = ((1, 0), (1, 2), (2, 0), (2, 2))  # ranks, workers
EVERY_CHANGE = (0, 0, 1, 1, 2, 2, 3, 3, 0, 2, 1, 3, 2, 0, 3, 1, 0)  # from each layout into each
STEPS_OF_A_LAYOUT = 3


def read_steps(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    words: list[str],
    layout: tuple[int, int],
    state: dict[str, Any] | None,
    num_steps: int,
) -> tuple[list[list[Asked]], dict[str, Any]]:
    """What the next steps ask, each in order of position, and the state after them."""
    num_ranks, num_workers = layout
    steps: list[list[Asked]] = [[] for _ in range(num_steps)]
    states = []
    for rank in range(num_ranks):
        data = data_of_rank(
            toy,
            processor,
            *words,
            f"data.num_workers={num_workers}",
            rank=rank,
            num_ranks=num_ranks,
        )
        if state is not None:
            resume(data, state)
        batches = iter(data.train_dataloader())
        for step in steps:
            for _ in range(data.micro_batches_per_step(num_ranks)):
                batch = next(batches)
                asked = [
                    tuple(question.id for question in questions) for questions in batch.questions
                ]
                step += zip(batch.positions, batch.keys, asked, strict=True)
            finish_step(data)
        states.append(data.state_dict())
    assert all(each == states[0] for each in states)  # Lightning keeps that of one rank
    return [sorted(step) for step in steps], states[0]


@pytest.mark.parametrize("balance_steps", [1, 3])
def test_every_change_of_ranks_and_workers_continues_with_exactly_the_next_samples(
    toy: ToyProject, processor: HourLLaVAProcessor, twice: list[str], balance_steps: int
) -> None:
    num_steps = STEPS_OF_A_LAYOUT * len(EVERY_CHANGE)
    words = [
        *twice,
        "data.global_batch_size=4",
        f"training.max_steps={num_steps}",
        f"data.length_balance_window={balance_steps}",
    ]
    whole, last_state = read_steps(toy, processor, words, (1, 0), None, num_steps)
    read, state = [], None
    for number in EVERY_CHANGE:
        more, state = read_steps(toy, processor, words, LAYOUTS[number], state, STEPS_OF_A_LAYOUT)
        read += more
    assert read == whole
    assert state == last_state

    data = data_of_rank(toy, processor, *words)
    assert (
        len(data.sources) == 2 and num_steps * 4 > 4 * data.order.num_samples
    )  # several passes over several sources
    drawn = Counter(position for step in whole for position, _, _ in step)
    assert set(drawn.values()) == {1}
    steps_per_pass = -(-data.order.num_samples // 4)
    assert set(range(4 * (num_steps // steps_per_pass) * steps_per_pass)) <= drawn.keys()
    in_order = [[position for position, _, _ in step] for step in whole]
    assert (in_order == [list(range(4 * step, 4 * step + 4)) for step in range(num_steps)]) == (
        balance_steps == 1
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_reads_the_same(
    toy: ToyProject, processor: HourLLaVAProcessor, twice: list[str], layout: tuple[int, int]
) -> None:
    words = [
        *twice,
        "data.global_batch_size=4",
        "data.length_balance_window=3",
        "training.max_steps=9",
    ]
    assert read_steps(toy, processor, words, layout, None, 9) == read_steps(
        toy, processor, words, (1, 0), None, 9
    )
