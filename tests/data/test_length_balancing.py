"""Steps of equal work: what shares a step costs about the same, nothing is lost, and time is still
mixed."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from lit_hour.config.data import DataConfig
from lit_hour.config.schema import Config
from lit_hour.data.questions.record import Modality
from lit_hour.data.sample_order import (
    TOKENS_PER_IMAGE,
    TOKENS_PER_QUESTION,
    LengthBalancedOrder,
    estimate_num_tokens,
    sample_costs,
)
from lit_hour.data.shards.reader import open_shards
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.processor import HourLLaVAProcessor
from tests.data.durations import Published, evenness, steps_of
from tests.data.ranks import data_of_rank
from tests.helpers.toy_run import ToyProject

BALANCE_STEPS = DataConfig().length_balance_window


@pytest.fixture(scope="module")
def published() -> Published:
    """Half of the published videos."""
    return Published(part=0.5)


def balanced(
    num_samples: int, samples_per_step: int, balance_steps: int, seed: int = 0
) -> LengthBalancedOrder:
    """The cost of a sample is the square of its position modulo 101: no two neighbours cost the
    same."""
    return LengthBalancedOrder(
        lambda positions: np.array(positions) ** 2 % 101,
        num_samples,
        samples_per_step=samples_per_step,
        max_window_steps=balance_steps,
        seed=seed,
    )


def window_ends(steps: list[list[int]]) -> list[int]:
    """After which steps just the first positions of the mixed order have been taken."""
    num = len(steps[0])
    return [
        end
        for end in range(1, len(steps) + 1)
        if set(itertools.chain(*steps[:end])) == set(range(num * end))
    ]


# What shares a step


@pytest.mark.parametrize(("num_ranks", "samples_per_step"), [(8, 128), (64, 128), (8, 8), (64, 64)])
def test_the_ranks_of_a_step_do_about_equal_work(
    published: Published, num_ranks: int, samples_per_step: int
) -> None:
    random, even = (
        [
            evenness(
                [
                    work_of(step)
                    for step in steps_of(
                        published.balanced(samples_per_step, balance_steps), 3 * BALANCE_STEPS
                    )
                ],
                num_ranks,
            )
            for work_of in (published.tokens_at, published.seconds_at)
        ]
        for balance_steps in (1, BALANCE_STEPS)
    )
    assert all(each.steps >= 0.95 and each.micro_batches >= 0.95 for each in even), even
    assert all(each.micro_batches < 0.55 for each in random), random


def test_time_is_mixed_as_without_balance(published: Published) -> None:
    steps = list(steps_of(published.balanced(64, BALANCE_STEPS), 2 * BALANCE_STEPS))
    ends = window_ends(steps)
    assert len(ends) == 2 and 0.9 * BALANCE_STEPS < ends[0] <= BALANCE_STEPS
    steps = steps[: ends[-1]]
    means = np.array([published.tokens_at(step).mean() for step in steps])  # (steps,)
    later, earlier = means[1:] - means.mean(), means[:-1] - means.mean()
    assert (
        abs((later * earlier).mean() / means.var()) < 0.25
    )  # neighbouring steps do not resemble each other


def test_ranks_with_real_batches_wait_less_for_each_other(
    toy: ToyProject, processor: HourLLaVAProcessor, long_and_short: Path
) -> None:
    sources = (
        f"data.{group}.world.shards={long_and_short}" for group in ("sources", "val_sources")
    )
    words = (
        *sources,
        "video.min_frames=1",
        "video.max_frames=24",
        "data.global_batch_size=4",
        "training.max_steps=0",
    )

    def evenness_of(balance_steps: int) -> float:
        loaders = [
            data_of_rank(
                toy,
                processor,
                *words,
                f"data.length_balance_window={balance_steps}",
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


# Nothing is lost


@pytest.mark.parametrize("num_samples", [1, 7, 70, 71, 79, 80])
@pytest.mark.parametrize("balance_steps", [1, 2, 3, 8, 1000])
def test_each_pass_has_each_of_its_positions_once(num_samples: int, balance_steps: int) -> None:
    order = balanced(num_samples, 5, balance_steps)
    num_places = order.steps_per_pass * 5
    assert num_samples <= num_places < num_samples + 5
    for start in (0, num_places, 2 * num_places):
        assert sorted(order[start + place] for place in range(num_places)) == list(
            range(start, start + num_places)
        )


def test_the_last_window_of_a_pass_is_like_the_others() -> None:
    order = balanced(11 * 5, 5, 5)  # 11 steps in windows of 3, 4 and 4, not of 5, 5 and 1
    steps = list(steps_of(order, 11))
    assert [end for end in window_ends(steps) if end != 1] == [
        3,
        7,
        11,
    ]  # the first step happens to come first
    for start, end in ((0, 3), (3, 7), (7, 11)):
        costs = [sorted(position**2 % 101 for position in step) for step in steps[start:end]]
        assert sorted(costs) == [
            list(each) for each in np.sort(np.concatenate(costs)).reshape(-1, 5)
        ]


def test_without_balance_the_order_stays_as_it_is() -> None:
    assert [balanced(70, 5, 1)[place] for place in range(200)] == list(range(200))


def test_any_place_alone_equals_the_sequence_and_the_seed_counts() -> None:
    sequence = [balanced(79, 5, 4)[place] for place in range(300)]
    again = balanced(79, 5, 4)
    assert all(again[place] == sequence[place] for place in reversed(range(300)))
    assert [balanced(79, 5, 4, seed=1)[place] for place in range(300)] != sequence
    # written down when the order was fixed: other numbers mean that every checkpoint resumes with
    # other data
    assert sequence[:10] == [13, 9, 17, 14, 10, 0, 1, 2, 3, 4]


# What a sample costs


def record(kind: Modality, num_frames: int, num_questions: int = 7) -> IndexEntry:
    return IndexEntry("000000.tar", "a", kind, 0, 512, 0.0, num_frames, num_questions)


def test_a_sample_costs_its_tokens() -> None:
    text = 5 * TOKENS_PER_QUESTION
    assert estimate_num_tokens(record("video", 3600), 5, Config()) == 3600 * 65 + text
    assert estimate_num_tokens(record("video", 3), 5, Config()) == 128 * 65 + text
    assert estimate_num_tokens(record("image", 1), 5, Config()) == 10 * TOKENS_PER_IMAGE + text
    assert estimate_num_tokens(record("images", 3), 5, Config()) == 3 * TOKENS_PER_IMAGE + text
    assert estimate_num_tokens(record("text", 0), 5, Config()) == TOKENS_PER_IMAGE + text


def test_the_costs_of_a_shard_are_those_of_its_samples(mixed: Path) -> None:
    shards = open_shards(mixed)
    for per_sample in (1, 2, 5):
        config = Config(data=DataConfig(questions_per_sample=per_sample))
        for number, costs in enumerate(sample_costs(shards, config)):
            assert len(costs) == shards.samples_per_shard(per_sample)[number]
            for sample, each in enumerate(costs):
                subject, asked = shards.locate(number, sample, per_sample)
                assert each == estimate_num_tokens(
                    subject, len(shards.read(subject).questions[asked]), config
                )
