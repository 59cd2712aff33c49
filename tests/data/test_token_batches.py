"""Batches that keep a budget of tokens, and have each sample once per pass, for any ranks."""

import itertools
from collections import Counter

import numpy as np
import pytest

from lit_hour.data.sample_lengths import SampleLengths
from lit_hour.data.sample_order import MixedOrder, SourceOrder, StepBatchSampler
from lit_hour.data.token_batches import (
    TokenBatchOrder,
    fill_batches,
    split_batches,
)
from lit_hour.errors import ConfigError

BUDGET = 100
WEIGHTS = {"images": 1.0, "videos": 0.5}


def random_lengths(num_samples: int, seed: int, longest: int = 60) -> SampleLengths:
    """Return samples of one to three texts, some longer than a third of the budget."""
    random = np.random.default_rng(seed)
    num_texts = random.integers(1, 4, num_samples)  # (samples,)
    length = random.integers(1, longest, num_samples)  # (samples,)
    total = length + (num_texts - 1) * random.integers(1, length + 1)  # (samples,)
    return SampleLengths(num_texts, length, total, 10 * length)


def token_order(
    num_samples: int = 90,
    batches_per_step: int = 4,
    max_window_steps: int = 3,
    counts_padding: bool = True,
    seed: int = 0,
    longest: int = 60,
) -> tuple[TokenBatchOrder, MixedOrder, dict[str, SampleLengths]]:
    """Return an order of two sources, the mixed order, and the lengths."""
    counts = {"images": (num_samples // 3, 2), "videos": (num_samples // 2, 0, 4)}
    sources = {name: SourceOrder(counts[name], 2, seed, name) for name in WEIGHTS}
    mixed = MixedOrder(sources, WEIGHTS, seed)
    lengths = {
        name: random_lengths(sum(counts[name]), number, longest)
        for number, name in enumerate(WEIGHTS)
    }
    order = TokenBatchOrder(
        mixed,
        lengths,
        tokens_per_batch=BUDGET,
        batches_per_step=batches_per_step,
        max_window_steps=max_window_steps,
        counts_padding=counts_padding,
    )
    return order, mixed, lengths


def lengths_of(
    batch: list[int], mixed: MixedOrder, lengths: dict[str, SampleLengths]
) -> SampleLengths:
    """Return the lengths of the samples at mixed positions."""
    rows = []
    for position in batch:
        name, shard, sample = mixed[position]
        counts = mixed.sources[mixed.names.index(name)].samples_per_shard
        rows.append(lengths[name][np.array([counts[:shard].sum() + sample])])
    return SampleLengths.concatenate(rows)


def size_of(batch: SampleLengths, counts_padding: bool) -> int:
    """Return the tokens of a batch, by the definition."""
    padded = batch.num_texts.sum() * batch.longest.max()
    return int(padded if counts_padding else batch.total.sum())


# Cutting


@pytest.mark.parametrize("counts_padding", [True, False])
@pytest.mark.parametrize("longest", [10, 60, 300])
def test_batches_keep_the_budget_and_are_as_large_as_it_allows(
    counts_padding: bool, longest: int
) -> None:
    lengths = random_lengths(200, seed=1, longest=longest)
    ends = fill_batches(lengths, BUDGET, counts_padding)
    bounds = [0, *ends.tolist()]
    batches = [np.arange(first, end) for first, end in itertools.pairwise(bounds)]
    assert np.concatenate(batches).tolist() == list(range(200))
    for batch in batches:
        assert len(batch) == 1 or 0 < size_of(lengths[batch], counts_padding) <= BUDGET
    for batch in batches[:-1]:
        with_next = np.append(batch, batch[-1] + 1)
        assert size_of(lengths[with_next], counts_padding) > BUDGET
    assert 1 < len(batches) < 200


def test_largest_batches_are_split_until_the_ranks_can_share_them() -> None:
    assert split_batches(np.array([9, 12, 13]), 4).tolist() == [4, 9, 12, 13]
    assert split_batches(np.array([9, 12, 13]), 5).tolist() == [4, 6, 9, 12, 13]
    assert split_batches(np.array([9, 12, 13]), 3).tolist() == [9, 12, 13]
    assert split_batches(np.array([1, 2, 3]), 5).tolist() == [1, 2, 3, 3, 3]  # two are empty


# Order


@pytest.mark.parametrize("counts_padding", [True, False])
@pytest.mark.parametrize("num_samples", [9, 31, 90])
@pytest.mark.parametrize("batches_per_step", [1, 4, 7])
@pytest.mark.parametrize("max_window_steps", [1, 2, 1000])
def test_each_pass_has_each_of_its_positions_once(
    num_samples: int, batches_per_step: int, max_window_steps: int, counts_padding: bool
) -> None:
    order, mixed, lengths = token_order(
        num_samples, batches_per_step, max_window_steps, counts_padding
    )
    read: list[int] = []
    for step in order.iter_steps(0):
        assert len(step) == batches_per_step and any(step)
        for batch in filter(None, step):
            size = size_of(lengths_of(batch, mixed, lengths), counts_padding)
            assert size <= BUDGET or len(batch) == 1
        read += itertools.chain(*step)
        if len(read) >= 3 * mixed.num_samples:
            break
    for start in range(0, 3 * mixed.num_samples, mixed.num_samples):
        assert sorted(read[start : start + mixed.num_samples]) == list(
            range(start, start + mixed.num_samples)
        )
    assert len(read) == 3 * mixed.num_samples


def test_empty_batches_come_only_where_no_batch_can_be_split() -> None:
    order, mixed, _ = token_order(30, 7, 1000, longest=400)
    first_pass = list(itertools.islice(order.iter_steps(0), order.steps_per_pass))
    sizes = [len(batch) for step in first_pass for batch in step]
    assert sum(sizes) == mixed.num_samples
    assert (0 in sizes and max(sizes) == 1) or 0 not in sizes


def test_order_is_a_function_of_seed_and_position() -> None:
    order = token_order()[0]
    steps = list(itertools.islice(order.iter_steps(0), 40))
    assert len(steps) > order.steps_per_pass > 3  # more than a pass
    position = 0
    for number, step in enumerate(steps):
        assert position == order.position_after(0, number)
        again = token_order()[0]
        assert (
            list(itertools.islice(again.iter_steps(position), 3))[: len(steps) - number]
            == (steps[number : number + 3])
        )
        assert again.position_after(position, 5) == order.position_after(0, number + 5)
        position += sum(map(len, step))
    assert list(itertools.islice(token_order(seed=1)[0].iter_steps(0), 40)) != steps


def test_position_of_another_order_continues_at_the_next_step() -> None:
    order = token_order()[0]
    starts = [order.position_after(0, number) for number in range(3 * order.steps_per_pass)]
    steps = list(itertools.islice(order.iter_steps(0), len(starts)))
    for position in range(starts[-1]):
        number = next(number for number, start in enumerate(starts) if start >= position)
        assert next(order.iter_steps(position)) == steps[number]


def test_samples_of_a_batch_have_similar_lengths() -> None:
    shares = []
    for max_window_steps in (1, 100):
        order, mixed, lengths = token_order(2000, 4, max_window_steps, longest=20)
        useful = computed = 0
        for step in itertools.islice(order.iter_steps(0), order.steps_per_pass):
            for batch in step:
                samples = lengths_of(batch, mixed, lengths)
                useful += int(samples.total.sum())
                computed += size_of(samples, counts_padding=True)
        shares.append(useful / computed)
    random, grouped = shares
    assert grouped > random + 0.15


def test_order_never_changes() -> None:
    # With other numbers, every existing checkpoint would resume with other samples.
    assert list(itertools.islice(token_order(30)[0].iter_steps(0), 2)) == [
        [[1], [3], [2], [20]],
        [[17], [8, 7], [13], [21]],
    ]


def test_pass_smaller_than_a_step_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"has 12 samples, but .*data\.batches_per_step=14 "):
        token_order(14, batches_per_step=14)


# Ranks


@pytest.mark.parametrize("max_window_steps", [1, 3])
def test_sampler_resumes_with_another_number_of_ranks(max_window_steps: int) -> None:
    """It stops after the second of fourteen steps, and again after the fifth."""
    expected = list(StepBatchSampler(token_order(90, 4, max_window_steps)[0], 0, 14))
    read: list[list[int]] = []
    position = 0
    for first, end, num_ranks in ((0, 2, 1), (2, 5, 2), (5, 14, 4)):
        order = token_order(90, 4, max_window_steps)[0]
        samplers = [
            StepBatchSampler(order, position, end, 1, first, rank, num_ranks)
            for rank in range(num_ranks)
        ]
        assert {len(sampler) for sampler in samplers} == {4 * end // num_ranks}
        batches = [list(sampler) for sampler in samplers]
        assert {len(of_rank) for of_rank in batches} == {4 * (end - first) // num_ranks}
        read += itertools.chain(*zip(*batches, strict=True))
        position = order.position_after(position, end - first)
    for start in range(0, 4 * 14, 4):
        assert sorted(read[start : start + 4]) == sorted(expected[start : start + 4])
    counts = Counter(itertools.chain(*read))
    assert set(counts.values()) == {1}


def test_uneven_step_is_rejected_with_valid_numbers() -> None:
    order = token_order(90, 4)[0]
    with pytest.raises(
        ConfigError, match=r"data\.batches_per_step=4 must be a multiple of 3, .*Set it to 3 or 6"
    ):
        len(StepBatchSampler(order, 0, 1, num_ranks=3))
