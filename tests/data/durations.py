"""A made-up set of samples whose videos are as long as the published ones, and how evenly steps of
them share the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_hour.data.sample_order import (
    TOKENS_PER_QUESTION,
    LengthBalancedOrder,
    MixedOrder,
    SourceOrder,
    split_step_across_ranks,
)

# VideoMarathon's 27,900 videos: how many last 0 to 5 minutes, 5 to 10, and so on up to an hour
NUM_VIDEOS = (4000, 4900, 3400, 3100, 3100, 2750, 2050, 1050, 850, 1300, 1000, 400)
SAMPLES_PER_VIDEO = 24  # its 3.3 million questions, five in a sample
VIDEOS_PER_SHARD = 16
MIN_FRAMES, TOKENS_PER_FRAME, QUESTIONS_PER_SAMPLE = 128, 65, 5


@dataclass(frozen=True)
class Published:
    """Samples about so large a part of the published videos, a frame for each second, in shards, in
    a random order."""

    part: float = 1.0
    seed: int = 0

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Duration of each video: `(videos,)`, evenly spread inside each five minutes."""
        random = np.random.default_rng(self.seed)
        found = [
            random.uniform(300 * number, 300 * number + 300, round(num * self.part))
            for number, num in enumerate(NUM_VIDEOS)
        ]
        videos = random.permutation(np.concatenate(found))  # (videos,)
        return videos[: len(videos) // VIDEOS_PER_SHARD * VIDEOS_PER_SHARD]

    @cached_property
    def mixed(self) -> MixedOrder:
        """The order without balance."""
        num_shards = len(self.seconds) // VIDEOS_PER_SHARD
        source = SourceOrder(
            (VIDEOS_PER_SHARD * SAMPLES_PER_VIDEO,) * num_shards, 4, self.seed, "videos"
        )
        return MixedOrder({"videos": source}, {"videos": 1.0}, self.seed)

    def seconds_at(self, positions: list[int] | range) -> NDArray[np.float64]:
        """Duration of the videos of the samples at positions of that order: `(positions,)`."""
        places = [self.mixed[position][1:] for position in positions]
        return self.seconds[
            [shard * VIDEOS_PER_SHARD + sample // SAMPLES_PER_VIDEO for shard, sample in places]
        ]

    def tokens_at(self, positions: list[int] | range) -> NDArray[np.int64]:
        """Tokens of repository and text of the samples at positions of that order:
        `(positions,)`."""
        num_frames = np.maximum(
            np.floor(self.seconds_at(positions)) + 1, MIN_FRAMES
        )  # (positions,)
        return (num_frames * TOKENS_PER_FRAME + QUESTIONS_PER_SAMPLE * TOKENS_PER_QUESTION).astype(
            np.int64
        )

    def balanced(self, samples_per_step: int, balance_steps: int) -> LengthBalancedOrder:
        """The order with balance."""
        return LengthBalancedOrder(
            self.tokens_at,
            self.mixed.num_samples,
            samples_per_step=samples_per_step,
            max_window_steps=balance_steps,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Evenness:
    """Mean over maximum of the work of the ranks: in each step, and in each micro-batch,
    averaged."""

    steps: float
    micro_batches: float


def steps_of(order: LengthBalancedOrder, num_steps: int) -> Iterator[list[int]]:
    """The positions that each of the first steps takes."""
    for first in range(0, num_steps * order.samples_per_step, order.samples_per_step):
        yield [order[place] for place in range(first, first + order.samples_per_step)]


def evenness(works: Sequence[NDArray[Any]], num_ranks: int) -> Evenness:
    """How evenly ranks with one sample in a micro-batch share steps whose samples take `works`,
    `(samples,)` each."""
    steps, micro_batches = [], []
    for work in works:
        places = np.array(
            [
                split_step_across_ranks(range(len(work)), 1, rank, num_ranks)
                for rank in range(num_ranks)
            ]
        )[:, :, 0]
        dealt = work[places]  # (ranks, micro-batches)
        steps.append(dealt.sum(axis=1).mean() / dealt.sum(axis=1).max())
        micro_batches.append((dealt.mean(axis=0) / dealt.max(axis=0)).mean())
    return Evenness(float(np.mean(steps)), float(np.mean(micro_batches)))
