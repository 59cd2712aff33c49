"""A question about a video that is remembered -> where in the video the model looks for the answer."""

from __future__ import annotations

from dataclasses import dataclass

from lit_hour.serving.session import Memory, Session


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


def find_evidence(session: Session, memory: Memory, question: str, answer: str) -> Evidence:
    """Everywhere alike."""
    seconds = [place * memory.duration_seconds / max(memory.num_frames, 1) for place in range(memory.num_frames)]
    return Evidence((Moment(0.0, memory.duration_seconds, 1.0),), tuple((each, 1.0) for each in seconds))
