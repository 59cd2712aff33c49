"""Video-MME: parquet, or the authors' JSON with the questions of a video together.

Prompts, with and without subtitles, are those of the published README, and the rule is that of the
published code. That code leaves unmatched responses out of the score; here they count as wrong.

Source: Video-MME (arXiv:2405.21075).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_hour.evaluation.benchmarks.base import (
    Benchmark,
    Record,
    iter_list_records,
    parse_labeled_options,
)
from lit_hour.evaluation.benchmarks.files import BenchmarkFile
from lit_hour.evaluation.item import Item
from lit_hour.media.subtitles import subtitles_at
from lit_hour.types import Subtitle

DURATIONS = ("short", "medium", "long")
VIDEO_SUFFIXES = (".mp4", ".MP4", ".mkv", ".webm")
INSTRUCTION = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
SUBTITLES_FOLLOW = "This video's subtitles are listed below:"
BEFORE_ANSWER = "The best answer is:"

COLUMN_OF_AUTHORS_KEY = {
    "duration_category": "duration",
    "video_category": "domain",
    "video_subcategory": "sub_category",
    "video_sub_category": "sub_category",
    "choices": "options",
}
_YOUTUBE_ID = re.compile(r"(?:[?&]v=|youtu\.be/)([\w-]{11})")


def iter_records(files: Sequence[BenchmarkFile]) -> Iterator[Record]:
    """Iterate over the rows of the table.

    The authors' JSON has the questions of a video together; each becomes a row with the columns of
    the table.
    """
    for record in iter_list_records(files):
        questions = record.fields.get("questions")
        if not isinstance(questions, list):
            yield record
            continue
        video = {key: value for key, value in record.fields.items() if key != "questions"}
        for number, fields in enumerate(questions, start=1):
            known = _to_columns({**video, **fields}) if isinstance(fields, dict) else {}
            yield Record(record.file, f"{record.name}, question {number}", known)


def _to_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the authors' keys to columns of the table, and take the video's id from its URL."""
    renamed = {COLUMN_OF_AUTHORS_KEY.get(key, key): value for key, value in fields.items()}
    link = _YOUTUBE_ID.search(str(renamed.get("url", "")))
    return {"videoID": link[1] if link else renamed.get("video_id"), **renamed}


def parse(record: Record) -> Item:
    """Parse one question, without subtitles."""
    lines = record.texts("options")
    options = parse_labeled_options(lines, "options", record.location)
    question = record.text("question")
    video = record.video(record.text("videoID"), "videoID")
    return Item(
        id=record.identifier("question_id"),
        videos=tuple(video + suffix for suffix in VIDEO_SUFFIXES),
        question=question,
        prompt="\n".join([INSTRUCTION, question, *lines, BEFORE_ANSWER]),
        options=options,
        answer=record.choice("answer", options),
        rule="video_mme",
        groups={
            "duration": (record.choice("duration", DURATIONS),),
            "domain": (record.text("domain"),),
            "sub-category": (record.text("sub_category"),),
            "task": (record.text("task_type"),),
        },
        location=record.location,
        subtitle_file=f"{video}.srt",
    )


def add_subtitles(
    item: Item, subtitles: Sequence[Subtitle], timestamps_seconds: Sequence[float]
) -> Item:
    """Return the question with the subtitles that are shown at the sampled frames.

    Args:
        item: a question without subtitles.
        subtitles: of the item's video. If empty, the prompt does not change.
        timestamps_seconds: of the sampled frames.
    """
    if not subtitles:
        return item
    lines = subtitles_at(subtitles, timestamps_seconds)
    prompt = "\n".join([SUBTITLES_FOLLOW, *lines, item.prompt])
    return replace(item, prompt=prompt)


BENCHMARK = Benchmark(
    name="video_mme",
    title="Video-MME",
    columns=(
        "videoID",
        "duration",
        "domain",
        "sub_category",
        "question_id",
        "task_type",
        "question",
        "options",
        "answer",
    ),
    num_published=2700,
    iter_records=iter_records,
    parse=parse,
)
