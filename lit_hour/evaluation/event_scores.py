"""Score described events against the true ones: recall, precision and errors of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from lit_hour.errors import ReportError
from lit_hour.text.chapters import Passage, word_similarity

MIN_SIMILARITY = 0.75  # Jaccard index of the words of two texts about the same event
TOLERANCE_SECONDS = 5.0


@dataclass(frozen=True)
class EventScores:
    """How well described events fit the true ones.

    Attributes:
        num_true: true events.
        num_described: described events.
        recall: share of the true events that are described, and begin within the tolerance.
        precision: share of the described events that are among these.
        start_error_seconds: mean distance of the starts of events with the same words, whatever the
            tolerance; None without any.
        end_error_seconds: the same of the ends.
    """

    num_true: int
    num_described: int
    recall: float
    precision: float
    start_error_seconds: float | None
    end_error_seconds: float | None


def score_events(
    true: Sequence[Passage],
    described: Sequence[Passage],
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> EventScores:
    """Score described events.

    A true and a described event fit if the Jaccard index of their words is at least
    `MIN_SIMILARITY`. Pairs are formed by the distance of their starts, the closest first, and each
    event is in one pair at most.

    Args:
        true: at least one event.
        described: any number of events.
        tolerance_seconds: largest distance of the starts that counts for recall and precision.

    Raises:
        ReportError: there is no true event.
    """
    if not true:
        raise ReportError("There is no true event to compare with. Give a video with events.")
    pairs = sorted(
        (abs(true[one].start_seconds - described[other].start_seconds), one, other)
        for one in range(len(true))
        for other in range(len(described))
        if word_similarity(true[one].text, described[other].text) >= MIN_SIMILARITY
    )
    matched: dict[int, int] = {}
    used: set[int] = set()
    for _, one, other in pairs:
        if one not in matched and other not in used:
            matched[one] = other
            used.add(other)
    starts = [
        abs(true[one].start_seconds - described[other].start_seconds)
        for one, other in matched.items()
    ]
    ends = [
        abs(true[one].end_seconds - described[other].end_seconds) for one, other in matched.items()
    ]
    num_found = sum(seconds <= tolerance_seconds for seconds in starts)
    return EventScores(
        num_true=len(true),
        num_described=len(described),
        recall=num_found / len(true),
        precision=num_found / len(described) if described else 0.0,
        start_error_seconds=mean(starts) if starts else None,
        end_error_seconds=mean(ends) if ends else None,
    )
