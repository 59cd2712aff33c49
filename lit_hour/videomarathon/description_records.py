"""Descriptions of an annotated video as training material: `description_records`.

They are made of the captions, events and summary that an annotation has already, so they need no
further request, and settings may be changed at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lit_hour.config.videomarathon import DescriptionConfig
from lit_hour.data.questions.record import question_record
from lit_hour.text.chapters import (
    CHAPTERS_QUESTION,
    SUMMARY_QUESTION,
    Passage,
    caption_question,
    events_question,
    format_lines,
    merge_passages,
)
from lit_hour.types import Question
from lit_hour.videomarathon.annotation import Annotation


def description_records(
    annotation: Annotation, config: DescriptionConfig
) -> Iterator[dict[str, Any]]:
    """Yield records of a question file, without the video; none for a video without questions."""
    if annotation.skip_reason:
        return
    clips = [
        Passage(caption["start_seconds"], caption["end_seconds"], caption["overall"])
        for caption in annotation.captions
    ]
    events = [Passage(**event) for event in annotation.events]
    for number, clip in enumerate(clips):
        bounds = clip.start_seconds, clip.end_seconds
        if config.captions:
            question = caption_question(*bounds)
            yield _record(annotation, f"caption/{number}", question, clip.text, bounds)
        if config.events:
            begun = [event for event in events if bounds[0] <= event.start_seconds < bounds[1]]
            question = events_question(*bounds)
            yield _record(annotation, f"events/{number}", question, format_lines(begun), bounds)
    if config.chapters:
        bounds = 0.0, annotation.duration_seconds
        chapters = [
            Passage(chapter.start_seconds, chapter.end_seconds, chapter.title)
            for chapter in merge_passages(clips)
        ]
        lines = format_lines(chapters)
        yield _record(annotation, "chapters", CHAPTERS_QUESTION, lines, bounds)
        yield _record(annotation, "summary", SUMMARY_QUESTION, annotation.summary, bounds)


def _record(
    annotation: Annotation, name: str, question: str, answer: str, bounds: tuple[float, float]
) -> dict[str, Any]:
    return question_record(
        Question(
            id=f"{annotation.video}/{name}",
            task="",
            format="open_ended",
            question=question,
            answer=answer,
            evidence=(bounds,),
        )
    )
