"""A description of a video as JSON, WebVTT chapters or Markdown (`format_description`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_hour.errors import QuestionError
from lit_hour.inference.describe import Description
from lit_hour.io.atomic import atomic_write
from lit_hour.text.chapters import Passage
from lit_hour.text.timestamp import format_timestamp

_MARKDOWN_MARKS = str.maketrans({mark: f"\\{mark}" for mark in r"\`*_[]<>#|"})


def description_fields(description: Description) -> dict[str, Any]:
    """Return a description as JSON has it."""
    fields = asdict(description)
    for field, chapter in zip(fields["chapters"], description.chapters, strict=True):
        field["title"] = chapter.title
    return fields


def to_json(description: Description) -> str:
    """Return a JSON object with all parts of a description."""
    return json.dumps(description_fields(description), ensure_ascii=False, indent=1) + "\n"


def to_webvtt(description: Description) -> str:
    """Return the chapters as WebVTT, for the `chapters` track of a player.

    Source: W3C, WebVTT: The Web Video Text Tracks Format, section on chapter cues.
    """
    cues = [
        f"{number}\n{_format_cue_time(chapter.start_seconds)} -->"
        f" {_format_cue_time(chapter.end_seconds)}\n{_escape_cue(chapter)}\n"
        for number, chapter in enumerate(description.chapters, start=1)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def to_markdown(description: Description) -> str:
    """Return the summary, the chapters and the events for reading."""
    lines = [f"# {_escape_markdown(description.source)}", "", _escape_markdown(description.summary)]
    for chapter in description.chapters:
        title = _escape_markdown(chapter.title)
        lines += ["", f"## {format_timestamp(chapter.start_seconds)} {title}", ""]
        lines.append(_escape_markdown(chapter.text))
        lines += [
            f"{'' if index else chr(10)}- {format_timestamp(event.start_seconds)} to"
            f" {format_timestamp(event.end_seconds)}: {_escape_markdown(event.text)}"
            for index, event in enumerate(_events_in(description, chapter))
        ]
    return "\n".join(lines) + "\n"


_FORMATS: dict[str, Callable[[Description], str]] = {
    ".json": to_json,
    ".vtt": to_webvtt,
    ".md": to_markdown,
}


def check_description_name(path: Path) -> None:
    """Check the suffix of a file to write a description to.

    Raises:
        QuestionError: it is none of those that are known.
    """
    if path.suffix.lower() not in _FORMATS:
        raise QuestionError(f"{path} has no known form. Give a file in {', '.join(_FORMATS)}.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise QuestionError(f"{path} cannot be written. Give a file in a folder that exists.")


def write_description(path: Path, description: Description) -> None:
    """Write a description atomically, in the form that the suffix names.

    Raises:
        QuestionError: see `check_description_name`, or the disk is full.
    """
    check_description_name(path)
    try:
        with atomic_write(path) as file:
            file.write(_FORMATS[path.suffix.lower()](description))
    except OSError as error:
        raise QuestionError(f"{path} cannot be written ({error.strerror}).") from error


def _events_in(description: Description, chapter: Passage) -> list[Passage]:
    return [
        event
        for event in description.events
        if chapter.start_seconds <= event.start_seconds < chapter.end_seconds
    ]


def _format_cue_time(seconds: float) -> str:
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _escape_cue(chapter: Passage) -> str:
    title = chapter.title or format_timestamp(chapter.start_seconds)
    return title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape_markdown(text: str) -> str:
    return " ".join(text.split()).translate(_MARKDOWN_MARKS)
