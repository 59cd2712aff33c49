"""The cells of a needle test: lengths, depths, and the share of correct answers in each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from lit_hour.errors import InputError
from lit_hour.text.timestamp import parse_duration

Z_95 = 1.959964  # quantile of the normal distribution for an interval of 95%


@dataclass(frozen=True)
class Cell:
    """Answers about needles at one depth of videos of one length.

    Attributes:
        length_seconds: of the videos, with the needle.
        depth: share of the video before the needle, from 0 to 1.
        num_answers: all answers.
        num_correct: those that are correct.
    """

    length_seconds: float
    depth: float
    num_answers: int
    num_correct: int

    @property
    def accuracy(self) -> float:
        """Return the share of correct answers."""
        return self.num_correct / self.num_answers

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% interval of the share."""
        return wilson_interval(self.num_correct, self.num_answers)

    def record(self) -> dict[str, Any]:
        """Return the cell for a JSON file."""
        return {
            "length_seconds": self.length_seconds,
            "depth": self.depth,
            "num_answers": self.num_answers,
            "num_correct": self.num_correct,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
        }


def wilson_interval(num_correct: int, num_answers: int) -> tuple[float, float]:
    """Return Wilson's score interval of 95% for a share; at least one answer.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    share, squared = num_correct / num_answers, Z_95**2
    scale = 1 + squared / num_answers
    center = (share + squared / (2 * num_answers)) / scale
    variance = share * (1 - share) / num_answers + squared / (4 * num_answers**2)
    half = Z_95 * sqrt(variance) / scale
    return max(0.0, center - half), min(1.0, center + half)


def count_cells(answers: Sequence[dict[str, Any]]) -> list[Cell]:
    """Count the answers about needles by length and depth, in order.

    Args:
        answers: records with `length_seconds`, `depth` and `is_correct`.
    """
    counts: dict[tuple[float, float], list[bool]] = {}
    for answer in answers:
        key = (answer["length_seconds"], answer["depth"])
        counts.setdefault(key, []).append(answer["is_correct"])
    return [
        Cell(length, depth, len(verdicts), sum(verdicts))
        for (length, depth), verdicts in sorted(counts.items())
    ]


def parse_lengths(text: str) -> tuple[float, ...]:
    """Return durations in seconds from `5m,30m,1h`, sorted and without repetition.

    Raises:
        InputError: one has another form, or is zero.
    """
    seconds = set()
    for part in text.split(","):
        duration = parse_duration(part)
        if not duration:
            raise InputError(
                f"Invalid --lengths {text}. Give durations such as 90s, 5m or 1h30m, separated by"
                " commas."
            )
        seconds.add(float(duration))
    return tuple(sorted(seconds))


def parse_depths(text: str) -> tuple[float, ...]:
    """Return shares from percentages such as `0,25,50,75,100`, sorted and without repetition.

    Raises:
        InputError: one is not a number from 0 to 100.
    """
    depths = set()
    for part in text.split(","):
        number = re.fullmatch(r"(\d+(?:\.\d+)?)%?", part.strip())
        if number is None or float(number[1]) > 100:
            raise InputError(
                f"Invalid --depths {text}. Give percentages of the video from 0 to 100, separated"
                " by commas."
            )
        depths.add(float(number[1]) / 100)
    return tuple(sorted(depths))
