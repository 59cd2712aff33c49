"""Time intervals in text: the format that a model learns to write, and a tolerant parser.

`format_intervals` writes "12.0 s to 15.5 s, 40.0 s to 41.0 s". `parse_intervals` reads this and
what other models write: "from 0:12 to 0:15", "between 1:02:03 and 1:02:30", "[12, 15]", "12-15 s".
`interval_iou` and `best_iou` compare stated with true intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

Interval = tuple[float, float]  # start and end in seconds

MAX_OPENING = 30  # characters before the first time that are read

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_UNIT = r"(?:hours?|hrs?|h|minutes?|mins?|min|m|seconds?|secs?|sec|s)\.?(?![a-z])"
_CLOCK = r"\d{1,3}(?::[0-5]?\d){1,2}(?:[.,]\d+)?"
_NUMBER = r"\d+(?:\.\d+)?"
_TIME = rf"(?:{_CLOCK}|{_NUMBER}\s*{_UNIT}(?:\s*(?:and\s+)?{_NUMBER}\s*{_UNIT}){{0,2}}|{_NUMBER})"
_SEPARATOR = (
    r"\s*[\])>]?\s*(?:-->|->|→|–|—|~|～|-|\.\.\.?|…|,?\s*\b(?:to|until|till|through|and|up to)\b|,)"
    r"\s*(?:about|around|approximately|the|[\"']?end\s*(?:time)?[\"']?\s*[:=])?\s*[\[(<]?\s*"
)
_INTERVAL = re.compile(
    # neither end is a part of "1,100": it could be one number or two
    rf"(?<![\d.:-])(?<!\d,)({_TIME}){_SEPARATOR}({_TIME})(?![\d:]|\.\d|-\d|,\d{{3}}(?!\d))",
    re.IGNORECASE,
)
_COMMA_OR_AND = re.compile(r"\A\s*(?:,\s*)?(?:and)?\s*\Z", re.IGNORECASE)
_OPENING = re.compile(r"(?:between\s+|[\[(]\s*|start\s*(?:time)?[\"']?\s*[:=]\s*)\Z", re.IGNORECASE)
_PART = re.compile(rf"({_NUMBER})\s*({_UNIT})", re.IGNORECASE)


MIN_IOU = 0.5  # from which on a stated interval counts as correct: R@1 at IoU 0.5

THRESHOLDS = (0.3, 0.5, 0.7)
SCORE_NAMES = (
    "mIoU",
    *(f"R@1 IoU {threshold}" for threshold in THRESHOLDS),
    "mIoU of all intervals",
)

_STRICT_INTERVAL = r"\d+\.\d s to \d+\.\d s"
_STRICT = re.compile(rf"{_STRICT_INTERVAL}(?:, {_STRICT_INTERVAL})*\.?")


def format_intervals(intervals: Iterable[Interval]) -> str:
    """Return intervals in the format that a model learns to write, in tenths of a second."""
    return ", ".join(f"{start:.1f} s to {end:.1f} s" for start, end in intervals)


def format_frame_time(seconds: float) -> str:
    """Return the words before the frames of a time, in the tenths of `format_intervals`.

    Source: Qwen3-VL, which writes "<12.0 seconds>".
    """
    return f"<{seconds:.1f} s>"


def true_intervals(answer: str) -> list[Interval]:
    """Return the intervals of a true answer in the strict format; none if it is another text."""
    return parse_intervals(answer) if _STRICT.fullmatch(answer.strip()) else []


def parse_intervals(text: str, duration_seconds: float = math.inf) -> list[Interval]:
    """Return the intervals that a text states, in its order.

    A number without a unit is in seconds, or in the unit of the other end: "1 to 2 minutes". An
    interval that ends after the video ends with it. One that begins after it, ends before it begins
    or has no length states nothing and is left out.

    Args:
        text: that a model generated.
        duration_seconds: of the video; infinite if it is not known.
    """
    intervals = []
    position = 0
    while match := _INTERVAL.search(text, position):
        position = match.end()
        separator = text[match.end(1) : match.start(2)]
        if _COMMA_OR_AND.match(separator) and not _OPENING.search(
            text, max(match.start() - MAX_OPENING, 0), match.start()
        ):
            position = match.start(2)  # "at 3 s, 5 s to 8 s": two times, not an interval
            continue
        start, end = _parse_ends(match[1], match[2])
        end = min(end, duration_seconds)
        if start < end:
            intervals.append((start, end))
    return intervals


def interval_iou(first: Sequence[Interval], second: Sequence[Interval]) -> float:
    """Return the intersection over union of the time that two sets of intervals cover, in [0, 1].

    Overlapping intervals of a set count once. 0 if both are empty.
    """
    one, other = merge_intervals(first), merge_intervals(second)
    shared = sum(
        max(0.0, min(end, other_end) - max(start, other_start))
        for start, end in one
        for other_start, other_end in other
    )
    union = _length(one) + _length(other) - shared
    return shared / union if union > 0 else 0.0


def best_iou(stated: Sequence[Interval], true: Sequence[Interval]) -> float:
    """Return the IoU of the first stated interval with the best-fitting true one; 0 if none.

    Charades-STA and QVHighlights count this way.
    """
    return max((interval_iou(stated[:1], [interval]) for interval in true), default=0.0)


def grounding_scores(stated: Sequence[Interval], true: Sequence[Interval]) -> dict[str, float]:
    """Return the scores `SCORE_NAMES` of a response, each in [0, 1]."""
    iou = best_iou(stated, true)
    recalls = {f"R@1 IoU {threshold}": float(iou >= threshold) for threshold in THRESHOLDS}
    return {"mIoU": iou, **recalls, "mIoU of all intervals": interval_iou(stated, true)}


def _parse_ends(first: str, second: str) -> Interval:
    units = [None if ":" in text else _last_unit(text) for text in (first, second)]
    if ":" not in first and ":" not in second:
        units = [units[0] or units[1], units[1] or units[0]]
    start, end = (
        _parse_time(text, unit) for text, unit in zip((first, second), units, strict=True)
    )
    return start, end


def _last_unit(text: str) -> str | None:
    parts = _PART.findall(text)
    return parts[-1][1][0].lower() if parts else None


def _parse_time(text: str, unit: str | None) -> float:
    """Return a time in seconds: "1:02:03.5", "1 min 5 s", or a number in a unit."""
    if ":" in text:
        seconds = 0.0
        for part in text.replace(",", ".").split(":"):
            seconds = 60 * seconds + float(part)
        return seconds
    if parts := _PART.findall(text):
        return sum(float(number) * _UNITS[name[0].lower()] for number, name in parts)
    return float(text) * _UNITS[unit or "s"]


def merge_intervals(intervals: Sequence[Interval]) -> list[Interval]:
    """Return disjoint intervals that cover the same time."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _length(intervals: Sequence[Interval]) -> float:
    return sum(end - start for start, end in intervals)
