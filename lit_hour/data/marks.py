"""Marks such as `<image>` in questions, which say where in the words a picture stands. They mean something among several
pictures only: one picture or a video stands in front of the first question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from lit_hour.data.subject import Kind
from lit_hour.errors import QuestionError
from lit_hour.types import IMAGE_MARK, Question

_MARK = re.compile("<(?:image|video)>")


def settle_marks(questions: Sequence[Question], kind: Kind, num_files: int, place: str) -> tuple[Question, ...]:
    """The questions of one record with the marks that belong there: one for each of several pictures, or none.

    Args:
        place: the file and the record, for errors.

    Raises:
        QuestionError: there are marks without pictures, another number of them than of pictures, or nothing else.
    """
    marks = [mark for question in questions for mark in _MARK.findall(question.question)]
    if kind == "text":
        if marks:
            raise QuestionError(f"{place}: a question has the mark {marks[0]}, but the record names no video and no image")
        return tuple(questions)
    for question in questions:
        if not _strip(question.question) or not _strip(question.answer):
            raise QuestionError(f"{place}: the question {question.id!r} or its answer is empty but for marks")
    if kind == "images":
        if marks and marks != [IMAGE_MARK] * num_files:
            raise QuestionError(
                f"{place}: the questions have the marks {' '.join(marks)} for {num_files} pictures:"
                f" let them have as many times {IMAGE_MARK}, or none"
            )
        answers = [text for question in questions for text in (question.answer, *question.options)]
        if any(_MARK.search(text) for text in answers):
            raise QuestionError(f"{place}: an answer or an option has a mark: among several pictures only questions have them")
        return tuple(questions)
    return tuple(_without_marks(question) for question in questions)


def complete_marks(questions: Sequence[Question], num_images: int) -> tuple[Question, ...]:
    """Some of a subject's questions: with a mark for each picture, or with none if some are in questions left out."""
    num_marks = sum(question.question.count(IMAGE_MARK) for question in questions)
    if num_marks in (0, num_images):
        return tuple(questions)
    return tuple(_without_marks(question) for question in questions)


def _without_marks(question: Question) -> Question:
    """Options keep theirs, and with them the answer that is one of them."""
    answer = question.answer if question.options else _strip(question.answer)
    return replace(question, question=_strip(question.question), answer=answer)


def _strip(text: str) -> str:
    return _MARK.sub("", text).strip()
