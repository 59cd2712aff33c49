"""Grounding questions: when a video shows the answer to a question, made from its evidence.

The answer has the strict format of `time_intervals.format_intervals`. Entry point:
`with_grounding_questions`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace

from lit_hour.io.sampling import seed_of
from lit_hour.text.time_intervals import (
    Interval,
    format_intervals,
    merge_intervals,
    parse_intervals,
    true_intervals,
)
from lit_hour.types import Question

MAX_INTERVALS = 5  # of an answer
MAX_SHARE = 0.5  # of the video that an answer may cover
_CLOCK = re.compile(r"\d:\d\d|\d\s*s\b")  # a time in the question, which would give the answer away


def with_grounding_questions(
    questions: Iterable[Question], share: float, duration_seconds: float = math.inf
) -> list[Question]:
    """Replace a share of the questions about a video by questions about their evidence.

    Questions that name a time, and those without evidence that `grounding_question` can ask for,
    stay. So does a question that would be asked twice, such as one in two formats.

    Args:
        questions: about one video.
        share: of the questions that can be replaced, in [0, 1]; drawn by their ids.
        duration_seconds: of the video; infinite if it is not known.
    """
    if not share:
        return list(questions)
    replaced, asked = [], set()
    for question in questions:
        grounding = grounding_question(question, duration_seconds)
        is_drawn = seed_of(f"grounding {question.id}") < share * 2**56  # of 7 bytes
        if grounding is not None and is_drawn and grounding.question not in asked:
            asked.add(grounding.question)
            replaced.append(grounding)
        else:
            replaced.append(question)
    return replaced


def grounding_question(question: Question, duration_seconds: float = math.inf) -> Question | None:
    """Return the open-ended question when a video shows the answer to another question.

    Args:
        question: with its evidence.
        duration_seconds: of the video; infinite if it is not known.

    Returns:
        None if the question names a time or is about times itself, if its evidence has no interval
        in tenths of a second or more than `MAX_INTERVALS`, or covers more than `MAX_SHARE` of the
        video, or ends after the video.
    """
    evidence = merge_intervals(question.evidence)
    answer = format_intervals(evidence)
    is_about_times = _CLOCK.search(question.question) or true_intervals(question.answer)
    if is_about_times or not 1 <= len(evidence) <= MAX_INTERVALS:
        return None
    if len(parse_intervals(answer)) < len(evidence) or not _fits(evidence, duration_seconds):
        return None
    return replace(
        question,
        format="open_ended",
        question=f'When does the video show the answer to "{question.question.strip()}"?'
        ' Give seconds, such as "12.0 s to 15.5 s".',
        answer=answer,
        options=(),
    )


def _fits(evidence: list[Interval], duration_seconds: float) -> bool:
    covered = sum(end - start for start, end in evidence)
    return evidence[-1][1] <= duration_seconds and covered <= MAX_SHARE * duration_seconds
