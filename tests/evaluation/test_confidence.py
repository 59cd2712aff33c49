"""Bootstrap intervals and McNemar's p-values, against known values."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product

import pytest

from lit_hour.evaluation.scoring import bootstrap_interval, mcnemar


def test_mcnemar_equals_the_enumeration_of_all_outcomes() -> None:
    for only_first, only_second in product(range(7), repeat=2):
        number = only_first + only_second
        outcomes = [sum(toss) for toss in product((0, 1), repeat=number)]
        as_unequal = sum(
            abs(2 * first - number) >= abs(only_first - only_second) for first in outcomes
        )
        assert mcnemar(only_first, only_second) == pytest.approx(as_unequal / 2**number)


def test_mcnemar_is_exact_for_thousands_of_questions() -> None:
    assert mcnemar(0, 3000) == float(Fraction(2, 2**3000))
    assert mcnemar(1500, 1500) == 1.0 and 0.04 < mcnemar(1446, 1554) < 0.06


def test_interval_of_independent_questions_is_binomial() -> None:
    values = [1] * 300 + [0] * 700
    low, high = bootstrap_interval(values, [str(number) for number in range(1000)]) or (0, 0)
    assert low == pytest.approx(0.3 - 1.96 * (0.3 * 0.7 / 1000) ** 0.5, abs=0.004)
    assert high == pytest.approx(0.3 + 1.96 * (0.3 * 0.7 / 1000) ** 0.5, abs=0.004)


def test_questions_of_a_video_are_resampled_together() -> None:
    values, alone = [1] * 300 + [0] * 700, [str(number) for number in range(1000)]
    narrow = bootstrap_interval(values, alone) or (0, 0)
    wide = bootstrap_interval(values, [str(number // 10) for number in range(1000)]) or (0, 0)
    assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(10**0.5, rel=0.1)


def test_interval_coverage_is_95_percent() -> None:
    draws = random.Random(0)
    covered = 0
    for _ in range(200):
        chances = [draws.betavariate(3, 2) for _ in range(60)]
        values = [float(draws.random() < chance) for chance in chances for _ in range(5)]
        low, high = bootstrap_interval(values, [str(number // 5) for number in range(300)]) or (
            0,
            0,
        )
        covered += low <= 0.6 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_depends_on_the_seed_only() -> None:
    values, videos = [1.0, 0, 1, 1, 0, 1], ["a", "a", "b", "b", "c", "c"]
    assert bootstrap_interval(values, videos) == bootstrap_interval(values, videos)
    assert bootstrap_interval(values, videos, seed=1) is not None


@pytest.mark.parametrize("videos", [[], ["a"], ["a", "a"]])
def test_fewer_than_two_videos_have_no_interval(videos: list[str]) -> None:
    assert bootstrap_interval([1.0] * len(videos), videos) is None
