"""Right and wrong answers in, how sure a score or a difference of two scores is out.

All questions of a video go together: they share what the model saw of it, so drawing single questions would seem too sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

NUM_RESAMPLES = 2000
COVERED_PERCENT = 95
Interval = tuple[float, float]


def bootstrap_interval(values: Sequence[float], videos: Sequence[str], seed: int = 0) -> Interval | None:
    """The interval in which the mean lies in 95% of the sets of videos that are drawn from these, with replacement.

    Args:
        values: one for each question: 1 for right and 0 for wrong, or the difference of two models.
        videos: the video of each question.

    Returns:
        The low and the high end; None for fewer than two videos, which say nothing of others.
    """
    numbers = {video: number for number, video in enumerate(dict.fromkeys(videos))}
    if len(numbers) < 2:
        return None
    places = np.array([numbers[video] for video in videos])  # (questions,)
    sums = np.bincount(places, weights=np.asarray(values, dtype=float))  # (videos,)
    counts = np.bincount(places)  # (videos,)
    generator = np.random.default_rng(seed)
    shares = np.full(len(numbers), 1 / len(numbers))  # (videos,)
    draws = generator.multinomial(len(numbers), shares, size=NUM_RESAMPLES)  # (resamples, videos) how often each is drawn
    means = (draws @ sums) / (draws @ counts)  # (resamples,)
    rest = (100 - COVERED_PERCENT) / 2
    low, high = np.percentile(means, [rest, 100 - rest])
    return float(low), float(high)


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """The exact two-sided p-value of McNemar's test: how likely counts so unequal are, if neither model is better.

    Args:
        num_only_first: questions that only the first model answers rightly.
        num_only_second: questions that only the second does.
    """
    num_different = num_only_first + num_only_second
    tail = sum(comb(num_different, count) for count in range(min(num_only_first, num_only_second) + 1))
    return min(1.0, 2 * tail / 2**num_different)
