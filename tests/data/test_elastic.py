"""A run that is resumed by other numbers of ranks and workers reads exactly the next samples."""

from collections import Counter
from typing import Any

import pytest

from lit_hour.processor import HourLLaVAProcessor
from tests.data.rank_data import data_of_rank, finish_step, resume
from tests.helpers.toy_run import ToyProject

SampleRead = tuple[int, str, tuple[str, ...]]  # position, key, ids of the questions
LAYOUTS = ((1, 0), (1, 2), (2, 0), (2, 2))  # ranks, workers
EVERY_CHANGE = (0, 0, 1, 1, 2, 2, 3, 3, 0, 2, 1, 3, 2, 0, 3, 1, 0)  # from each layout into each
EVERY_LAYOUT = (1, 2, 3, 0)


def read_steps(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    argv: list[str],
    layout: tuple[int, int],
    state: dict[str, Any] | None,
    num_steps: int,
) -> tuple[list[list[SampleRead]], dict[str, Any]]:
    """Return the samples of the next steps, sorted by position, and the state after them."""
    num_ranks, num_workers = layout
    steps: list[list[SampleRead]] = [[] for _ in range(num_steps)]
    states = []
    for rank in range(num_ranks):
        data = data_of_rank(
            toy,
            processor,
            *argv,
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
                ids: list[tuple[str, ...]] = [() for _ in batch.keys]
                for visual, questions in zip(batch.visual_of_text, batch.questions, strict=True):
                    ids[visual] += tuple(question.id for question in questions)
                if batch.positions:  # an empty batch of a budget has a dummy
                    step += zip(batch.positions, batch.keys, ids, strict=True)
            finish_step(data)
        states.append(data.state_dict())
    assert all(state == states[0] for state in states)  # Lightning saves one of them
    return [sorted(step) for step in steps], states[0]


@pytest.mark.parametrize(
    ("layouts", "steps_per_layout", "max_window_steps", "num_conversations"),
    [
        (EVERY_LAYOUT, 4, 3, 1),
        pytest.param(EVERY_LAYOUT, 4, 3, 3, marks=pytest.mark.slow),
        pytest.param(EVERY_CHANGE, 3, 1, 1, marks=pytest.mark.slow),
        pytest.param(EVERY_CHANGE, 3, 3, 1, marks=pytest.mark.slow),
        pytest.param(EVERY_CHANGE, 3, 3, 2, marks=pytest.mark.slow),
    ],
)
def test_change_of_ranks_and_workers_resumes_at_the_next_samples(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    two_sources: list[str],
    layouts: tuple[int, ...],
    steps_per_layout: int,
    max_window_steps: int,
    num_conversations: int,
) -> None:
    num_steps = steps_per_layout * len(layouts)
    argv = [
        *two_sources,
        "data.global_batch_size=4",
        f"training.max_steps={num_steps}",
        f"data.length_balance_window={max_window_steps}",
        f"data.conversations_per_video={num_conversations}",
    ]
    expected, last_state = read_steps(toy, processor, argv, (1, 0), None, num_steps)
    read, state = [], None
    for number in layouts:
        more, state = read_steps(toy, processor, argv, LAYOUTS[number], state, steps_per_layout)
        read += more
    assert read == expected
    assert state == last_state

    data = data_of_rank(toy, processor, *argv)
    assert len(data.sources) == 2 and num_steps * 4 > data.mixed_order.num_samples  # a second pass
    counts = Counter(position for step in expected for position, _, _ in step)
    assert set(counts.values()) == {1}
    steps_per_pass = -(-data.mixed_order.num_samples // 4)
    assert set(range(4 * (num_steps // steps_per_pass) * steps_per_pass)) <= counts.keys()
    in_order = [[position for position, _, _ in step] for step in expected]
    assert (in_order == [list(range(4 * step, 4 * step + 4)) for step in range(num_steps)]) == (
        max_window_steps == 1
    )


@pytest.mark.parametrize("packing", ["true", "false"])
@pytest.mark.parametrize("num_conversations", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_batches_of_a_budget_resume_with_other_ranks_and_workers(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    two_sources: list[str],
    num_conversations: int,
    packing: str,
) -> None:
    argv = [
        *two_sources,
        "data.tokens_per_batch=500",
        "data.batches_per_step=2",
        "data.length_balance_window=3",
        f"data.conversations_per_video={num_conversations}",
        f"training.packing={packing}",
        "training.max_steps=24",
    ]
    expected, last_state = read_steps(toy, processor, argv, (1, 0), None, 24)
    read, state = [], None
    for number in EVERY_LAYOUT:
        more, state = read_steps(toy, processor, argv, LAYOUTS[number], state, 6)
        read += more
    assert read == expected and state == last_state
    sizes = [len(step) for step in expected]
    assert last_state["position"] == sum(sizes) and len(set(sizes)) > 1
    num_samples = data_of_rank(toy, processor, *argv).mixed_order.num_samples
    positions = [position for step in expected for position, _, _ in step]
    assert len(positions) > num_samples  # a second pass
    assert sorted(positions[:num_samples]) == list(range(num_samples))


@pytest.mark.parametrize("tokens_per_batch", [0, 700])
@pytest.mark.parametrize("num_conversations", [1, 2, 3, 0])
def test_each_question_comes_once_per_pass(
    toy: ToyProject, processor: HourLLaVAProcessor, num_conversations: int, tokens_per_batch: int
) -> None:
    argv = [
        f"data.conversations_per_video={num_conversations}",
        f"data.tokens_per_batch={tokens_per_batch}",
        f"data.batches_per_step={int(tokens_per_batch > 0)}",
        "data.global_batch_size=1",
        "data.length_balance_window=3",
        "training.max_steps=0",
    ]
    data = data_of_rank(toy, processor, *argv)
    num_samples = data.mixed_order.num_samples
    steps, _ = read_steps(toy, processor, argv, (1, 0), None, data.num_steps)
    counts = Counter((key, id_) for step in steps for _, key, ids in step for id_ in ids)
    entries = data.sources["world"].entries
    assert set(counts.values()) == {1}
    assert len(counts) == sum(entry.num_questions for entry in entries)
    if num_conversations == 0 and not tokens_per_batch:
        assert num_samples == len(entries)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_and_workers_do_not_change_the_samples_of_a_step(
    toy: ToyProject, processor: HourLLaVAProcessor, two_sources: list[str], layout: tuple[int, int]
) -> None:
    argv = [
        *two_sources,
        "data.global_batch_size=4",
        "data.length_balance_window=3",
        "training.max_steps=9",
    ]
    assert read_steps(toy, processor, argv, layout, None, 9) == read_steps(
        toy, processor, argv, (1, 0), None, 9
    )
