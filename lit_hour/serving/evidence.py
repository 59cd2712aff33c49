"""A question about a video that is remembered -> where in the video the model looks for the answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """A piece of a video, in seconds, and how much of an answer rests on it: a share of the whole video's."""

    start_seconds: float
    end_seconds: float
    share: float


@dataclass(frozen=True)
class Evidence:
    """Where in a video the model looked for an answer.

    Attributes:
        moments: pieces that stand out, those with the largest share first.
        curve: for each frame its second, and how much more it was looked at than without a question: 1 is as much.
    """

    moments: tuple[Moment, ...]
    curve: tuple[tuple[float, float], ...]
