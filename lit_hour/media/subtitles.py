"""Read subtitles as they are found (.srt, .vtt, .ass, .ssa), and select those at some moments.

`parse_subtitles` reads a file and lists the cues that cannot be used; `find_subtitle_file` finds
the file beside a video.
"""

from __future__ import annotations

import codecs
import html
import math
import re
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_hour.errors import QuestionError
from lit_hour.io.file_kinds import HEAD_BYTES, describe_wrong_kind
from lit_hour.types import Subtitle

SUBTITLE_SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")  # the first that exists is taken
MIN_FOREIGN_CHARACTERS = 15  # of a text in another encoding; a short one may be Western
EXAMPLE = "00:00:01,000 --> 00:00:02,500"
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NO_CUE = re.compile(r"^(?:NOTE|STYLE|REGION)\b.*?(?:\n[ \t]*\n|\Z)", re.DOTALL | re.MULTILINE)
_TAG = re.compile(r"<[^<>\n]*>")  # WebVTT's times and classes too
_ASS_LINE = re.compile(r"(?:Dialogue|Comment):\s*(?:Marked=)?[^,]*,([^,]*),([^,]*),")
_ASS_TIME = re.compile(r"\s*\d+:\d\d:\d\d[.:,]\d+\s*")


class SubtitleWarning(UserWarning):
    """A cue of a subtitle file cannot be used."""


@dataclass(frozen=True)
class SubtitleFile:
    """Subtitles of a file in its order, and why other cues cannot be used."""

    subtitles: tuple[Subtitle, ...]
    invalid: tuple[str, ...]


def read_subtitles(file: Path, max_invalid: int = 0) -> tuple[Subtitle, ...]:
    """Return the subtitles of a file, without markup and without empty ones.

    Args:
        file: .srt, .vtt, .ass or .ssa; the content counts.
        max_invalid: number of cues that may be invalid.

    Raises:
        QuestionError: the file cannot be read, or too many cues are invalid.
    """
    content = parse_subtitles(file)
    if len(content.invalid) > max_invalid:
        raise QuestionError(content.invalid[0])
    return content.subtitles


def parse_subtitles(file: Path) -> SubtitleFile:
    """Read a file as `read_subtitles` does, and list the cues that cannot be used.

    Text is UTF-8, UTF-16 with a byte order mark, or else taken for Windows-1252.

    Raises:
        QuestionError: the file cannot be read, is in another encoding, or has no cue; or pysubs2
            is not installed.
    """
    content = _read_text(file)
    events, invalid = _parse_events(content, file)
    subtitles = []
    for number, event in enumerate(events, start=1):
        if event.is_comment or event.is_drawing:
            continue
        text, *rest = plain_text(event.plaintext).split("-->", maxsplit=1)
        if rest:
            text = re.sub(r"(?:\s\d+)?\s\S*\s*\Z", "", f" {text}").strip()
            invalid.append(
                f"{file}: subtitle {number} is followed by a line of times other than {EXAMPLE}:"
                f" {rest[0].strip()[:80]!r}."
            )
        if event.end < event.start or event.start < 0:
            invalid.append(
                f"{file}: subtitle {number} lasts from {event.start / 1000:g} s to"
                f" {event.end / 1000:g} s."
            )
        elif text:
            subtitles.append(Subtitle(event.start / 1000, event.end / 1000, text))
    return SubtitleFile(tuple(subtitles), tuple(invalid))


def _parse_events(content: str, file: Path) -> tuple[Any, list[str]]:
    """Return the events that pysubs2 finds, and the lines of an ASS file that are invalid."""
    try:
        import pysubs2
        from pysubs2.exceptions import Pysubs2Error
    except ImportError as error:
        raise QuestionError(
            f"{file}: reading subtitles needs pysubs2. Install it with: pip install pysubs2"
        ) from error
    if not content.strip():
        return (), []
    kind = "srt"
    invalid: list[str] = []
    if content.lstrip().startswith("WEBVTT"):
        kind, content = "vtt", _NO_CUE.sub("", content)
    elif re.search(r"^\[(?:Script Info|Events)\]", content, re.MULTILINE | re.IGNORECASE):
        kind = "ass"
        content, invalid = _drop_invalid_lines(content, file)
    # pysubs2 drops a last line that is a number, since it may number the next subtitle
    end = "" if kind == "ass" else "\n\n0\n"
    try:
        events = pysubs2.SSAFile.from_string(content + end, format_=kind)
    except (Pysubs2Error, ValueError, IndexError, KeyError) as error:
        raise QuestionError(
            f"{file}: the subtitles cannot be read: {error}. Convert them to .srt."
        ) from error
    if not events and not invalid:
        raise QuestionError(f"{file}: no line of times such as {EXAMPLE} was found.")
    return events, invalid


def find_subtitle_file(video: Path) -> Path | None:
    """Return the subtitles beside a video: of the same name, or the only ones with a language.

    Beside `a.mp4` this is `a.srt`, `a.vtt` or `a.ass`, or else `a.en.srt` if no other language
    is there.
    """
    for suffix in SUBTITLE_SUFFIXES:
        if (file := video.with_suffix(suffix)).is_file():
            return file
    languages = [
        file
        for suffix in SUBTITLE_SUFFIXES
        for file in video.parent.glob(f"{_escape_glob(video.stem)}.*{suffix}")
        if "." not in file.stem.removeprefix(f"{video.stem}.")
    ]
    return languages[0] if len(languages) == 1 else None


def load_video_subtitles(
    video: Path, clip_seconds: tuple[float, float] | None = None
) -> tuple[Subtitle, ...]:
    """Return the subtitles beside a video; a warning names each cue that cannot be used.

    Args:
        video: the video file.
        clip_seconds: start and end of the part that is shown; None for the whole video.

    Raises:
        QuestionError: the file beside it has no subtitles.
    """
    file = find_subtitle_file(video)
    if file is None:
        return ()
    content = parse_subtitles(file)
    for reason in content.invalid:
        warnings.warn(reason, SubtitleWarning, stacklevel=2)
    return cut_subtitles(content.subtitles, clip_seconds)


def subtitles_at(subtitles: Sequence[Subtitle], timestamps_seconds: Sequence[float]) -> list[str]:
    """Return the texts shown at one or more of the moments, once and in order."""
    moments = sorted(timestamps_seconds)
    return [subtitle.text for subtitle in subtitles if _is_shown(subtitle, moments)]


def interleave_with_frames(
    subtitles: Sequence[Subtitle], timestamps_seconds: Sequence[float]
) -> list[list[str]]:
    """Put the texts of subtitles between frames: each behind the frames up to its middle.

    A subtitle counts if a frame begins inside it. One that is shorter than a second is taken to
    last the second around its middle.

    Args:
        subtitles: in the order of their file.
        timestamps_seconds: of the frames, in order.

    Returns:
        The texts before each frame and behind the last: one list more than there are frames.

    Source: LongVideoBench (arXiv:2407.15754), its data loader.
    """
    between: list[list[str]] = [[] for _ in range(len(timestamps_seconds) + 1)]
    num_before = 0
    for subtitle in subtitles:
        start, end = subtitle.start_seconds, subtitle.end_seconds
        middle = (start + end) / 2
        num_before = max(num_before, bisect_right(timestamps_seconds, middle))
        if end - start < 1:
            start, end = middle - 0.5, middle + 0.5
        start = math.nextafter(start, math.inf)  # a frame at the very start is not inside
        if _is_shown(replace(subtitle, start_seconds=start, end_seconds=end), timestamps_seconds):
            between[num_before].append(subtitle.text)
    return between


def _is_shown(subtitle: Subtitle, moments: Sequence[float]) -> bool:
    """Return whether a subtitle is shown at one of the moments, which are in order."""
    first = bisect_left(moments, subtitle.start_seconds)
    return first < len(moments) and moments[first] < subtitle.end_seconds


def cut_subtitles(
    subtitles: Sequence[Subtitle], clip_seconds: tuple[float, float] | None
) -> tuple[Subtitle, ...]:
    """Return the subtitles shown in a part of a video, with times from its start."""
    start, end = clip_seconds or (0.0, math.inf)
    return tuple(
        replace(
            subtitle,
            start_seconds=max(subtitle.start_seconds - start, 0.0),
            end_seconds=min(subtitle.end_seconds, end) - start,
        )
        for subtitle in subtitles
        if subtitle.start_seconds < end and subtitle.end_seconds > start
    )


def format_srt(subtitles: Sequence[Subtitle]) -> str:
    """Return the content of a .srt file."""
    return "".join(
        f"{number}\n{_srt_time(subtitle.start_seconds)} --> {_srt_time(subtitle.end_seconds)}\n"
        f"{' '.join(subtitle.text.split())}\n\n"
        for number, subtitle in enumerate(subtitles, start=1)
    )


def _srt_time(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"


def _read_text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise QuestionError(f"{file}: the subtitles cannot be read: {error.strerror}.") from error
    if data and (kind := describe_wrong_kind(data[:HEAD_BYTES])):
        raise QuestionError(f"{file} {kind}")
    encoding = _BYTE_ORDER_MARKS.get(data[:2], "utf-8-sig")
    try:
        content = data.decode(encoding)
    except UnicodeDecodeError:
        content = data.decode("cp1252", errors="replace")
        num_ascii = sum(character.isascii() and character.isalpha() for character in content)
        num_others = sum(not character.isascii() for character in content)
        if num_others > max(num_ascii, MIN_FOREIGN_CHARACTERS):  # such as Cyrillic or Chinese
            raise QuestionError(
                f"{file}: its text is neither UTF-8 nor Windows-1252. Save it as UTF-8."
            ) from None
    return content.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def plain_text(text: str) -> str:
    """Return a text on one line, without tags and with its entities as characters."""
    return " ".join(html.unescape(_TAG.sub("", text)).split())


def _drop_invalid_lines(content: str, file: Path) -> tuple[str, list[str]]:
    """Return an ASS file without the lines that have invalid times, and the reason for each."""
    kept, invalid = [], []
    for number, line in enumerate(content.split("\n"), start=1):
        match = _ASS_LINE.match(line)
        if match and not all(map(_ASS_TIME.fullmatch, match.groups())):
            invalid.append(f"{file}: line {number} has the times {match[1]!r} and {match[2]!r}.")
        else:
            kept.append(line)
    return "\n".join(kept), invalid


def _escape_glob(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
