"""Read the subtitles of a video from a .srt file and select those shown at given moments."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hour.errors import QuestionError

EXAMPLE = "00:00:01,000 --> 00:00:02,500"


@dataclass(frozen=True)
class Subtitle:
    """A text and the interval in which it is shown, in seconds; the end is exclusive."""

    start_seconds: float
    end_seconds: float
    text: str


def read_subtitles(file: Path) -> tuple[Subtitle, ...]:
    """Return the subtitles in the order of the file, without markup and without empty ones.

    Raises:
        QuestionError: the file cannot be read, is not UTF-8, or a line of times in it is invalid;
            or pysubs2 is not installed.
    """
    try:
        import pysubs2
    except ImportError as error:
        raise QuestionError(
            f"{file}: reading subtitles needs pysubs2. Install it with: pip install pysubs2"
        ) from error
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"{file}: the subtitles cannot be read as UTF-8: {error}") from error
    # pysubs2 drops a last line that is a number, since it may number the next subtitle
    events = pysubs2.SSAFile.from_string(f"{content}\n\n0\n", format_="srt")
    if not events and content.strip():
        raise QuestionError(f"{file}: no line of times such as {EXAMPLE} was found.")
    subtitles = []
    for number, event in enumerate(events, start=1):
        text = " ".join(filter(None, map(str.strip, event.plaintext.splitlines())))
        if "-->" in text:
            raise QuestionError(
                f"{file}: subtitle {number} is followed by a line of times other than {EXAMPLE}:"
                f" {text!r}."
            )
        subtitles.append(Subtitle(event.start / 1000, event.end / 1000, text))
    return tuple(subtitle for subtitle in subtitles if subtitle.text)


def subtitles_at(subtitles: Sequence[Subtitle], timestamps_seconds: Sequence[float]) -> list[str]:
    """Return the texts shown at one or more of the moments, each once and in order."""
    moments = sorted(timestamps_seconds)

    def is_shown(subtitle: Subtitle) -> bool:
        first = bisect_left(moments, subtitle.start_seconds)
        return first < len(moments) and moments[first] < subtitle.end_seconds

    return [subtitle.text for subtitle in subtitles if is_shown(subtitle)]
