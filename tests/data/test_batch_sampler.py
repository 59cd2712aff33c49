import itertools

import numpy as np
import pytest

from lit_hour.data.sample_order import (
    LengthBalancedOrder,
    StepBatchSampler,
    split_step_across_ranks,
)
from lit_hour.errors import ConfigError
from tests.data.factories import IdentityOrder


def order(samples_per_step: int, max_window_steps: int = 1) -> LengthBalancedOrder:
    """Return an order of 70 samples with the cost position % 13."""
    return LengthBalancedOrder(
        IdentityOrder(70, seed=1),
        {IdentityOrder.SOURCE: [np.arange(1000) % 13]},
        samples_per_step=samples_per_step,
        max_window_steps=max_window_steps,
    )


@pytest.mark.parametrize(
    ("num_ranks", "micro_batch_size"), list(itertools.product([1, 2, 3], [1, 2, 4]))
)
def test_all_ranks_together_read_each_step_once(num_ranks: int, micro_batch_size: int) -> None:
    for step_start in (0, 24, 240):
        samples = range(step_start, step_start + 24)
        shares = [
            split_step_across_ranks(samples, micro_batch_size, rank, num_ranks)
            for rank in range(num_ranks)
        ]
        assert {len(batch) for batches in shares for batch in batches} == {micro_batch_size}
        assert len({len(batches) for batches in shares}) == 1
        assert sorted(
            sample for batches in shares for batch in batches for sample in batch
        ) == list(samples)


def test_ranks_compute_neighbors_at_the_same_time_in_alternating_order() -> None:
    assert [split_step_across_ranks(range(12), 1, rank, 3) for rank in range(3)] == [
        [[0], [5], [6], [11]],
        [[1], [4], [7], [10]],
        [[2], [3], [8], [9]],
    ]
    assert [split_step_across_ranks(range(8), 2, rank, 2) for rank in range(2)] == [
        [[0, 3], [4, 7]],
        [[1, 2], [5, 6]],
    ]
    assert split_step_across_ranks(range(4), 2, 0, 1) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("samples_per_step", "advice"), [(16, r"Set it to 12 or 18\."), (5, r"Set it to 6\.")]
)
def test_uneven_step_is_rejected_with_valid_sizes(samples_per_step: int, advice: str) -> None:
    message = rf"data\.global_batch_size={samples_per_step} .*{advice}"
    with pytest.raises(ConfigError, match=message):
        split_step_across_ranks(range(samples_per_step), 2, 0, 3)
    with pytest.raises(ConfigError, match=message):
        len(StepBatchSampler(order(samples_per_step), 0, 1, micro_batch_size=2, num_ranks=3))


@pytest.mark.parametrize("first_step", range(7))
def test_consecutive_steps_share_samples_from_any_step_on(first_step: int) -> None:
    """The position of a step is that of its group."""
    sampler = StepBatchSampler(
        order(2), first_step // 3 * 2, 7, 1, first_step=first_step, steps_per_group=3
    )
    groups = [0, 0, 0, 2, 2, 2, 4]
    expected = [[position + one] for position in groups[first_step:] for one in (0, 1)]
    assert list(sampler) == expected and len(sampler) == 14


@pytest.mark.parametrize("max_window_steps", [1, 4])
def test_sampler_resumes_with_another_number_of_ranks(max_window_steps: int) -> None:
    """It stops after the second of seven steps, inside a window, and again after the fifth."""
    expected = list(StepBatchSampler(order(10, max_window_steps), 0, 14, micro_batch_size=1))
    read = list(StepBatchSampler(order(10, max_window_steps), 0, 2, micro_batch_size=5))
    later = order(10, max_window_steps)
    for first, end, num_ranks in ((2, 5, 2), (5, 14, 5)):
        samplers = [
            StepBatchSampler(
                later,
                10 * first,
                end,
                micro_batch_size=1,
                first_step=first,
                rank=rank,
                num_ranks=num_ranks,
            )
            for rank in range(num_ranks)
        ]
        assert {len(sampler) for sampler in samplers} == {
            end * 10 // num_ranks
        }  # with the steps before
        batches = [list(sampler) for sampler in samplers]
        assert {len(of_rank) for of_rank in batches} == {(end - first) * 10 // num_ranks}
        read += [batch for turn in zip(*batches, strict=True) for batch in turn]

    def steps_of(batches: list[list[int]]) -> list[list[int]]:
        samples = [sample for batch in batches for sample in batch]
        return [sorted(samples[start : start + 10]) for start in range(0, len(samples), 10)]

    assert steps_of(read) == steps_of(expected)
    assert sorted(sample for step in steps_of(expected) for sample in step) == list(range(140))
    assert (max_window_steps == 1) == (
        steps_of(expected) == [list(range(start, start + 10)) for start in range(0, 140, 10)]
    )
