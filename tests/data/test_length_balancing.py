"""Steps of samples with similar costs, which contain every sample of a pass once."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from lit_hour.config.data import DataConfig
from lit_hour.data.sample_order import LengthBalancedOrder
from lit_hour.processor import HourLLaVAProcessor
from tests.data.factories import IdentityOrder
from tests.data.published_lengths import PublishedLengths, iter_steps, measure_balance
from tests.data.rank_data import data_of_rank
from tests.helpers.toy_run import ToyProject

WINDOW = DataConfig().length_balance_window


@pytest.fixture(scope="module")
def published() -> PublishedLengths:
    """Half of the published videos."""
    return PublishedLengths(fraction=0.5)


def balanced(
    num_samples: int, samples_per_step: int, max_window_steps: int, seed: int = 0
) -> LengthBalancedOrder:
    """Return an order with costs that differ between neighbors: position ** 2 % 101."""
    return LengthBalancedOrder(
        IdentityOrder(num_samples, seed),
        {IdentityOrder.SOURCE: [np.arange(1000) ** 2 % 101]},
        samples_per_step=samples_per_step,
        max_window_steps=max_window_steps,
    )


def window_ends(steps: list[list[int]]) -> list[int]:
    """Return after which steps a prefix of the mixed order is complete."""
    num = len(steps[0])
    return [
        end
        for end in range(1, len(steps) + 1)
        if set(itertools.chain(*steps[:end])) == set(range(num * end))
    ]


# Balance


@pytest.mark.parametrize(("num_ranks", "samples_per_step"), [(8, 128), (64, 128), (8, 8), (64, 64)])
def test_ranks_of_a_step_have_about_equal_work(
    published: PublishedLengths, num_ranks: int, samples_per_step: int
) -> None:
    random, even = (
        [
            measure_balance(
                [
                    work_of(step)
                    for step in iter_steps(
                        published.balanced_order(samples_per_step, max_window_steps), 3 * WINDOW
                    )
                ],
                num_ranks,
            )
            for work_of in (published.tokens_at, published.seconds_at)
        ]
        for max_window_steps in (1, WINDOW)
    )
    assert all(balance.steps >= 0.95 and balance.micro_batches >= 0.95 for balance in even), even
    assert all(balance.micro_batches < 0.55 for balance in random), random


def test_neighboring_steps_have_uncorrelated_lengths(published: PublishedLengths) -> None:
    steps = list(iter_steps(published.balanced_order(64, WINDOW), 2 * WINDOW))
    ends = window_ends(steps)
    assert len(ends) == 2 and 0.9 * WINDOW < ends[0] <= WINDOW
    steps = steps[: ends[-1]]
    means = np.array([published.tokens_at(step).mean() for step in steps])  # (steps,)
    later, earlier = means[1:] - means.mean(), means[:-1] - means.mean()
    assert abs((later * earlier).mean() / means.var()) < 0.25  # no autocorrelation


def test_ranks_have_batches_of_similar_length(
    toy: ToyProject, processor: HourLLaVAProcessor, uneven_shards: Path
) -> None:
    sources = (f"data.{group}.world.shards={uneven_shards}" for group in ("sources", "val_sources"))
    argv = (
        *sources,
        "video.min_frames=1",
        "video.max_frames=24",
        "data.global_batch_size=4",
        "training.max_steps=0",
    )

    def evenness_of(max_window_steps: int) -> float:
        loaders = [
            data_of_rank(
                toy,
                processor,
                *argv,
                f"data.length_balance_window={max_window_steps}",
                "model.memaug.min_frames=1",
                rank=rank,
                num_ranks=2,
            ).train_dataloader()
            for rank in range(2)
        ]
        frames = np.array(
            [[len(batch.visuals[0]) for batch in loader] for loader in loaders]
        )  # (ranks, micro-batches)
        assert frames.shape == (2, 20)
        return float((frames.mean(axis=0) / frames.max(axis=0)).mean())

    assert evenness_of(10) > 0.95 > 0.8 > evenness_of(1)


# Permutation


@pytest.mark.parametrize("num_samples", [1, 7, 70, 71, 79, 80])
@pytest.mark.parametrize("max_window_steps", [1, 2, 3, 8, 1000])
def test_each_pass_is_a_permutation_of_its_positions(
    num_samples: int, max_window_steps: int
) -> None:
    order = balanced(num_samples, 5, max_window_steps)
    num_positions = order.steps_per_pass * 5
    assert num_samples <= num_positions < num_samples + 5
    for start in (0, num_positions, 2 * num_positions):
        assert sorted(order[start + position] for position in range(num_positions)) == list(
            range(start, start + num_positions)
        )


def test_windows_of_a_pass_have_about_equal_length() -> None:
    order = balanced(11 * 5, 5, 5)  # 11 steps: windows of 3, 4 and 4
    steps = list(iter_steps(order, 11))
    assert [end for end in window_ends(steps) if end != 1] == [
        3,
        7,
        11,
    ]  # the first step keeps its position by chance
    for start, end in ((0, 3), (3, 7), (7, 11)):
        costs = [sorted(position**2 % 101 for position in step) for step in steps[start:end]]
        assert sorted(costs) == [
            list(step) for step in np.sort(np.concatenate(costs)).reshape(-1, 5)
        ]


def test_window_of_one_step_keeps_the_order() -> None:
    assert [balanced(70, 5, 1)[position] for position in range(200)] == list(range(200))


def test_balanced_order_is_a_function_of_seed_and_position() -> None:
    sequence = [balanced(79, 5, 4)[position] for position in range(300)]
    again = balanced(79, 5, 4)
    assert all(again[position] == sequence[position] for position in reversed(range(300)))
    assert [balanced(79, 5, 4, seed=1)[position] for position in range(300)] != sequence
    # With other numbers, every existing checkpoint would resume with other samples.
    assert sequence[:10] == [13, 9, 17, 14, 10, 0, 1, 2, 3, 4]
