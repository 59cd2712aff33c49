"""Drafts of questions in, those that are kept out, and those that were dropped, each with the filter and its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_hour.data.questions import question_record
from lit_hour.errors import QuestionError
from lit_hour.marathon.questions import Material
from lit_hour.marathon.teacher import Teacher
from lit_hour.marathon.teacher_filters import find_answered_blindly, find_contradicted
from lit_hour.marathon.word_filters import (
    Faults,
    find_given_away_by_length,
    find_given_away_by_wording,
    find_near_duplicates,
    find_repeated,
    read_question,
)
from lit_hour.types import Question

WORD_FILTERS = {  # in the order in which they are applied; those that cost requests come after them
    "given_away_by_length": find_given_away_by_length,
    "given_away_by_wording": find_given_away_by_wording,
    "near_duplicate": find_near_duplicates,
}


@dataclass(frozen=True)
class Dropped:
    """A draft that was not kept: by which filter, and why."""

    filter: str
    reason: str
    record: dict[str, Any]


@dataclass
class Sieve:
    """Questions on their way through the filters."""

    kept: list[Question]
    dropped: list[Dropped]

    def drop(self, name: str, faults: Faults) -> None:
        """Take out those that a filter has found."""
        self.dropped += [
            Dropped(name, faults[question.id], question_record(question)) for question in self.kept if question.id in faults
        ]
        self.kept = [question for question in self.kept if question.id not in faults]


async def filter_questions(drafts: Sequence[dict[str, Any]], material: Material, teacher: Teacher) -> Sieve:
    """Apply every filter to the drafts of one video.

    Raises:
        AnswerError, TeacherError: as `Teacher.ask`.
    """
    sieve = Sieve([], [])
    for record in drafts:
        if repeated := find_repeated(record.get("options", [])):
            sieve.dropped.append(Dropped("repeated_options", repeated, record))
            continue
        try:
            sieve.kept.append(read_question(record, material.footage.duration_seconds))
        except QuestionError as error:
            sieve.dropped.append(Dropped("wrong_format", str(error), record))
    for name, find in WORD_FILTERS.items():
        sieve.drop(name, find(sieve.kept, teacher.settings.filters))
    sieve.drop("contradicted", await find_contradicted(sieve.kept, material, teacher))
    sieve.drop("answered_blindly", await find_answered_blindly(sieve.kept, teacher))
    return sieve
