"""A .srt file in, the lines that are shown at given seconds out."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hour.errors import QuestionError

_TIMES = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d{3}) --> (\d+):(\d\d):(\d\d)[,.](\d{3}).*")
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Subtitle:
    """Words, and from when until when they are shown, in seconds."""

    start_seconds: float
    end_seconds: float
    text: str


def read_subtitles(file: Path) -> tuple[Subtitle, ...]:
    """The subtitles of a video without their markup, in the order of the file; empty ones do not count.

    Raises:
        QuestionError: the file cannot be read, or a block in it has no times.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"{file}: the subtitles cannot be read: {error}") from error
    blocks = [block.strip().split("\n") for block in re.split(r"\n\s*\n", content) if block.strip()]
    subtitles = [
        _read_block(lines, f"{file}: subtitle {number}")
        for number, lines in enumerate(blocks, start=1)
    ]
    return tuple(subtitle for subtitle in subtitles if subtitle.text)


def subtitles_at(subtitles: Sequence[Subtitle], timestamps_seconds: Sequence[float]) -> list[str]:
    """The words of the subtitles during which at least one of the moments lies, each once, in order."""
    moments = sorted(timestamps_seconds)

    def is_shown(subtitle: Subtitle) -> bool:
        first = bisect_left(moments, subtitle.start_seconds)
        return first < len(moments) and moments[first] < subtitle.end_seconds

    return [subtitle.text for subtitle in subtitles if is_shown(subtitle)]


def _read_block(lines: list[str], place: str) -> Subtitle:
    """A number, the times, and the words in one or more lines."""
    times = next(
        (match for match in map(_TIMES.fullmatch, map(str.strip, lines[:2])) if match), None
    )
    if times is None:
        raise QuestionError(f"{place} has no line of times such as 00:00:01,000 --> 00:00:02,500")
    start, end = (_seconds(*times.groups()[place : place + 4]) for place in (0, 4))
    after = next(number for number, line in enumerate(lines) if "-->" in line) + 1
    return Subtitle(
        start, end, _TAG.sub("", " ".join(line.strip() for line in lines[after:])).strip()
    )


def _seconds(hours: str, minutes: str, seconds: str, milliseconds: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(milliseconds) / 1000
