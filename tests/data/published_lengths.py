"""Samples with the video lengths of VideoMarathon, and how evenly the ranks share their work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_hour.data.sample_order import (
    LengthBalancedOrder,
    MixedOrder,
    SourceOrder,
    split_step_across_ranks,
)
from lit_hour.data.training_samples import TOKENS_PER_QUESTION

# VideoMarathon's 27,900 videos by duration: up to 5 minutes, up to 10, and so on up to an hour
NUM_VIDEOS = (4000, 4900, 3400, 3100, 3100, 2750, 2050, 1050, 850, 1300, 1000, 400)
SAMPLES_PER_VIDEO = 24  # 3.3 million questions, five per sample
VIDEOS_PER_SHARD = 16
MIN_FRAMES, TOKENS_PER_FRAME, QUESTIONS_PER_SAMPLE = 128, 65, 5


@dataclass(frozen=True)
class PublishedLengths:
    """Samples about a fraction of the videos at one frame per second, in shards in random order."""

    fraction: float = 1.0
    seed: int = 0

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Duration of each video, uniform in each five minutes: `(videos,)`."""
        random = np.random.default_rng(self.seed)
        durations = [
            random.uniform(300 * number, 300 * number + 300, round(num * self.fraction))
            for number, num in enumerate(NUM_VIDEOS)
        ]
        videos = random.permutation(np.concatenate(durations))  # (videos,)
        return videos[: len(videos) // VIDEOS_PER_SHARD * VIDEOS_PER_SHARD]

    @cached_property
    def mixed_order(self) -> MixedOrder:
        """Order of the samples without length balancing."""
        num_shards = len(self.seconds) // VIDEOS_PER_SHARD
        samples_per_shard = (VIDEOS_PER_SHARD * SAMPLES_PER_VIDEO,) * num_shards
        source = SourceOrder(samples_per_shard, 4, self.seed, "videos")
        return MixedOrder({"videos": source}, {"videos": 1.0}, self.seed)

    def seconds_at(self, positions: Sequence[int]) -> NDArray[np.float64]:
        """Return the duration of the videos at positions of the mixed order: `(positions,)`."""
        samples = [self.mixed_order[position][1:] for position in positions]
        return self.seconds[
            [shard * VIDEOS_PER_SHARD + sample // SAMPLES_PER_VIDEO for shard, sample in samples]
        ]

    def tokens_at(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """Return the tokens of repository and text at positions of that order: `(positions,)`."""
        return self._tokens(self.seconds_at(positions))

    @staticmethod
    def _tokens(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
        num_frames = np.floor(seconds) + 1  # (samples,)
        visual = np.maximum(num_frames, MIN_FRAMES) * TOKENS_PER_FRAME  # (samples,)
        return (visual + QUESTIONS_PER_SAMPLE * TOKENS_PER_QUESTION).astype(np.int64)

    def balanced_order(self, samples_per_step: int, max_window_steps: int) -> LengthBalancedOrder:
        """Return the order with length balancing."""
        num_samples = VIDEOS_PER_SHARD * SAMPLES_PER_VIDEO  # of a shard
        costs = self._tokens(np.repeat(self.seconds, SAMPLES_PER_VIDEO))  # (samples,)
        return LengthBalancedOrder(
            self.mixed_order,
            {"videos": list(costs.reshape(-1, num_samples))},
            samples_per_step=samples_per_step,
            max_window_steps=max_window_steps,
        )


@dataclass(frozen=True)
class RankBalance:
    """Mean over maximum of the ranks' work, averaged over steps and over micro-batches."""

    steps: float
    micro_batches: float


def iter_steps(order: LengthBalancedOrder, num_steps: int) -> Iterator[list[int]]:
    """Yield the mixed positions of each of the first steps."""
    for first in range(0, num_steps * order.samples_per_step, order.samples_per_step):
        yield [order[position] for position in range(first, first + order.samples_per_step)]


def measure_balance(works: Sequence[NDArray[Any]], num_ranks: int) -> RankBalance:
    """Measure how evenly ranks share steps, with one sample in a micro-batch.

    Args:
        works: of the samples of each step, `(samples,)`.
    """
    steps, micro_batches = [], []
    for work in works:
        indices = np.array(
            [
                split_step_across_ranks(range(len(work)), 1, rank, num_ranks)
                for rank in range(num_ranks)
            ]
        )[:, :, 0]  # (ranks, micro-batches)
        shared = work[indices]  # (ranks, micro-batches)
        steps.append(shared.sum(axis=1).mean() / shared.sum(axis=1).max())
        micro_batches.append((shared.mean(axis=0) / shared.max(axis=0)).mean())
    return RankBalance(float(np.mean(steps)), float(np.mean(micro_batches)))
