"""LongVideoBench, validation and test: a JSON list with duration groups and levels.

The test set is published without answers, for a submission.

Prompts are those of the published data loader. `read_subtitles` reads the subtitles that it puts
between the frames; without them the prompts are those of lmms-eval's task for videos. An unmatched
response counts as wrong; the published code draws an option at random.

Source: LongVideoBench (arXiv:2407.15754).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.base import (
    Benchmark,
    Record,
    iter_list_records,
    lettered_options,
)
from lit_hour.evaluation.item import Item
from lit_hour.media.subtitles import plain_text
from lit_hour.types import Subtitle

INSTRUCTION = "Answer with the option's letter from the given choices directly."
DURATION_GROUPS_SECONDS = ("15", "60", "600", "3600")
_TIME = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


def parse(record: Record) -> Item:
    """Parse one record of `lvb_val.json`; the test set has no answers and is refused."""
    item = _parse_question(record)
    options = list(item.options)
    return replace(item, answer=options[record.index("correct_choice", len(options))])


def parse_without_answer(record: Record) -> Item:
    """Parse one record of `lvb_test_wo_gt.json`; one with an answer is refused."""
    if "correct_choice" in record.fields:
        raise QuestionError(
            f"{record.location} has an answer. Set evaluation.benchmark=longvideobench."
        )
    return _parse_question(record)


def _parse_question(record: Record) -> Item:
    options = lettered_options(record, "candidates")
    question = record.text("question")
    lines = [f"{letter}. {text}" for letter, text in options.items()]
    duration_group = record.choice("duration_group", DURATION_GROUPS_SECONDS)
    return Item(
        id=record.identifier("id"),
        videos=(record.video(record.text("video_path"), "video_path"),),
        question=question,
        prompt="\n".join([f"Question: {question}", *lines, INSTRUCTION]),
        options=options,
        answer="",
        rule="longvideobench",
        groups={
            "duration group in seconds": (duration_group,),
            "level": (record.text("level"),),
            "category": (record.text("question_category"),),
        },
        location=record.location,
        subtitle_file=str(record.fields.get("subtitle_path") or ""),
        subtitle_start_seconds=record.optional_number("starting_timestamp_for_subtitles"),
        duration_seconds=record.optional_number("duration"),
    )


def read_subtitles(file: Path, item: Item, max_invalid: int = 0) -> tuple[Subtitle, ...]:
    """Read the subtitles of a question, with times from the start of its video.

    The file has a list of `{"start": "00:00:01.5", "end": "00:00:03", "line": "..."}`, or of
    `{"timestamp": [1.5, 3.0], "text": "..."}`, where the end may be null: the end of the video.

    Args:
        file: the published JSON file.
        item: says when its video begins, and how long it is.
        max_invalid: number of subtitles that may be invalid; these are left out.

    Raises:
        QuestionError: the file cannot be read, or too many of its subtitles are invalid.
    """
    try:
        records = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise QuestionError(f"{file}: the subtitles cannot be read: {error}.") from error
    if not isinstance(records, list):
        raise QuestionError(
            f"{file} must hold a list of subtitles, not a {type(records).__name__}."
        )
    subtitles, invalid = [], []
    for number, record in enumerate(records, start=1):
        try:
            subtitles.append(_parse_subtitle(record, item))
        except (KeyError, TypeError, ValueError):
            invalid.append(f"{file}: subtitle {number} has no times or no text: {record!r:.80}.")
    if len(invalid) > max_invalid:
        raise QuestionError(invalid[0])
    return tuple(subtitle for subtitle in subtitles if subtitle.text)


def _parse_subtitle(record: Any, item: Item) -> Subtitle:
    """Parse one subtitle; raise KeyError, TypeError or ValueError if it is invalid."""
    offset = item.subtitle_start_seconds
    if "timestamp" in record:
        start, end = record["timestamp"]
        end = end if isinstance(end, float) else item.duration_seconds  # as the published code
        return Subtitle(float(start) - offset, end - offset, plain_text(record["text"]))
    start, end = _seconds(record["start"]), _seconds(record["end"])
    return Subtitle(start - offset, end - offset, plain_text(record["line"]))


def _seconds(time: str) -> float:
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(f"{time!r} is not a time")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


COLUMNS = (
    "id",
    "video_path",
    "question",
    "candidates",
    "duration_group",
    "level",
    "question_category",
)
BENCHMARK = Benchmark(
    name="longvideobench",
    title="LongVideoBench validation",
    columns=(*COLUMNS, "correct_choice"),
    num_published=1337,
    iter_records=iter_list_records,
    parse=parse,
    hint="the test set is published without answers; use lvb_val.json, or evaluate"
    " longvideobench_test",
)
TEST_BENCHMARK = Benchmark(
    name="longvideobench_test",
    title="LongVideoBench test",
    columns=COLUMNS,
    num_published=5341,
    iter_records=iter_list_records,
    parse=parse_without_answer,
)
