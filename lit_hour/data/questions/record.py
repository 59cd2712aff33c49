"""One record of our own format in, a question out, and back. Every key is checked.

Marks such as `<image>` in questions, which say where in the words a picture stands. They mean something among several
pictures only: one picture or a video stands in front of the first question.


What questions are asked about: a video, a picture, several pictures, or nothing but their own words."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from lit_hour.errors import QuestionError
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import IMAGE_TOKEN, Question, QuestionFormat

REQUIRED_KEYS = ("question", "answer")
FILE_KEYS = ("video", "image", "images")
OPTIONAL_KEYS = (*FILE_KEYS, "id", "task", "format", "options", "evidence")
MAX_OPTIONS = 26  # one for each letter
LETTER = re.compile(r"\(?([A-Z])[.)]?")


def parse_question(record: dict[str, Any], place: str) -> Question:
    """One record of our own format, its id included.

    Args:
        record: the keys that `question_record` writes; `FILE_KEYS` may be there too.
        place: the file and the record, for errors.

    Raises:
        QuestionError: a key is missing, unknown, or has a value that cannot be used.
    """
    if not isinstance(record, dict):
        raise QuestionError(f"{place}: a question has to be a mapping, not {record!r}")
    for key in record:
        if key not in REQUIRED_KEYS + OPTIONAL_KEYS:
            raise QuestionError(
                f"{place}: unknown key {key!r}{did_you_mean(key, REQUIRED_KEYS + OPTIONAL_KEYS)}"
            )
    options = _options(record, place)
    default_format = "multiple_choice" if options else "open_ended"
    question_format: QuestionFormat = _choice(
        record, "format", default_format, get_args(QuestionFormat), place
    )
    if (question_format == "multiple_choice") != bool(options):
        raise QuestionError(
            f"{place}: key 'options': multiple_choice needs options, open_ended must not have any"
        )
    answer = text_of(record, "answer", place)
    return Question(
        id=_identifier(record, place),
        task=_choice(record, "task", "", tuple(TASK_OF_KEY), place),
        format=question_format,
        question=text_of(record, "question", place),
        answer=_right_option(answer, options, place) if options else answer,
        options=options,
        evidence=_evidence(record, place),
    )


def question_record(question: Question) -> dict[str, Any]:
    """The question as JSON holds it; `parse_question` reads it back."""
    return {
        "id": question.id,
        "task": question.task,
        "format": question.format,
        "question": question.question,
        "options": list(question.options),
        "answer": question.answer,
        "evidence": [list(interval) for interval in question.evidence],
    }


def text_of(record: dict[str, Any], key: str, place: str) -> str:
    """The text of a key that has to be there, without blanks around it.

    Raises:
        QuestionError: it is missing, no text, or empty.
    """
    if key not in record:
        raise QuestionError(f"{place}: key '{key}' is missing{did_you_mean(key, record)}")
    return check_text(record[key], key, place)


def check_text(value: Any, key: str, place: str) -> str:
    """The text that stands under a key, without blanks around it.

    Raises:
        QuestionError: it is no text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(
            f"{place}: key '{key}' has to be a text that is not empty, not {value!r}"
        )
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise QuestionError(
            f"{place}: key '{key}' has half a character (a lone surrogate): {value!r}"
        )
    return value.strip()


def check_path(value: Any, key: str, place: str) -> str:
    """The path inside a folder of files that stands under a key.

    Raises:
        QuestionError: it is no text, or leads out of the folder.
    """
    path = PurePosixPath(check_text(value, key, place))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in str(path):
        raise QuestionError(
            f"{place}: key '{key}': {value!r} must be a path inside the folder of files"
        )
    return str(path)


def did_you_mean(word: str, words: Iterable[str], likeness: float = 0.6) -> str:
    """The end of an error about a word that is none of `words`: the one most like it, if one is at least so much like it."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=likeness)
    return f"; did you mean {near[0]!r}?" if near else ""


def _identifier(record: dict[str, Any], place: str) -> str:
    identifier = record.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        raise QuestionError(
            f"{place}: key 'id' has to be a text or a whole number, not {identifier!r}"
        )
    return str(identifier)


def _choice(
    record: dict[str, Any], key: str, default: str, choices: tuple[str, ...], place: str
) -> Any:
    value = record.get(key, default)
    if value != default and value not in choices:
        raise QuestionError(
            f"{place}: key '{key}': there is no {value!r}{did_you_mean(str(value), choices)}"
        )
    return value


def _options(record: dict[str, Any], place: str) -> tuple[str, ...]:
    options = record.get("options", [])
    if not isinstance(options, list) or not all(
        isinstance(option, str) and option.strip() for option in options
    ):
        raise QuestionError(
            f"{place}: key 'options' has to be a list of texts that are not empty, not {options!r}"
        )
    texts = tuple(option.strip() for option in options)
    if len(set(texts)) < len(texts):
        raise QuestionError(f"{place}: key 'options' repeats an option: {options!r}")
    if len(texts) == 1 or len(texts) > MAX_OPTIONS:
        raise QuestionError(f"{place}: key 'options' has {len(texts)}; it takes 2 to {MAX_OPTIONS}")
    return texts


def _right_option(answer: str, options: tuple[str, ...], place: str) -> str:
    """The option that the answer names by its text, or else by its letter."""
    if answer in options:
        return answer
    letter = LETTER.fullmatch(answer)
    index = ord(letter[1]) - ord("A") if letter else len(options)
    if index >= len(options):
        raise QuestionError(
            f"{place}: key 'answer': {answer!r} is not among the options {list(options)!r}"
        )
    return options[index]


def _evidence(record: dict[str, Any], place: str) -> tuple[tuple[float, float], ...]:
    intervals = record.get("evidence", [])
    if not isinstance(intervals, list) or not all(_is_interval(interval) for interval in intervals):
        raise QuestionError(
            f"{place}: key 'evidence' has to be a list of [start, end] in seconds, not {intervals!r}"
        )
    return tuple((float(start), float(end)) for start, end in intervals)


def _is_interval(interval: Any) -> bool:
    if not isinstance(interval, list) or len(interval) != 2:
        return False
    if any(isinstance(moment, bool) or not isinstance(moment, int | float) for moment in interval):
        return False
    return 0 <= interval[0] <= interval[1] < math.inf


_MARK = re.compile("<(?:image|video)>")


def validate_placeholders(
    questions: Sequence[Question], kind: Modality, num_files: int, place: str
) -> tuple[Question, ...]:
    """The questions of one record with the marks that belong there: one for each of several pictures, or none.

    Args:
        place: the file and the record, for errors.

    Raises:
        QuestionError: there are marks without pictures, another number of them than of pictures, or nothing else.
    """
    marks = [mark for question in questions for mark in _MARK.findall(question.question)]
    if kind == "text":
        if marks:
            raise QuestionError(
                f"{place}: a question has the mark {marks[0]}, but the record names no video and no image"
            )
        return tuple(questions)
    for question in questions:
        if not _strip(question.question) or not _strip(question.answer):
            raise QuestionError(
                f"{place}: the question {question.id!r} or its answer is empty but for marks"
            )
    if kind == "images":
        if marks and marks != [IMAGE_TOKEN] * num_files:
            raise QuestionError(
                f"{place}: the questions have the marks {' '.join(marks)} for {num_files} pictures:"
                f" let them have as many times {IMAGE_TOKEN}, or none"
            )
        answers = [text for question in questions for text in (question.answer, *question.options)]
        if any(_MARK.search(text) for text in answers):
            raise QuestionError(
                f"{place}: an answer or an option has a mark: among several pictures only questions have them"
            )
        return tuple(questions)
    return tuple(_without_marks(question) for question in questions)


def drop_partial_placeholders(
    questions: Sequence[Question], num_images: int
) -> tuple[Question, ...]:
    """Some of a subject's questions: with a mark for each picture, or with none if some are in questions left out."""
    num_marks = sum(question.question.count(IMAGE_TOKEN) for question in questions)
    if num_marks in (0, num_images):
        return tuple(questions)
    return tuple(_without_marks(question) for question in questions)


def _without_marks(question: Question) -> Question:
    """Options keep theirs, and with them the answer that is one of them."""
    answer = question.answer if question.options else _strip(question.answer)
    return replace(question, question=_strip(question.question), answer=answer)


def _strip(text: str) -> str:
    return _MARK.sub("", text).strip()


Modality = Literal["video", "image", "images", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
MODALITY_PLURALS: dict[Modality, str] = {
    "video": "videos",
    "image": "pictures",
    "images": "sets of pictures",
    "text": "texts",
}
MULTI_RECORD_MODALITIES = ("video", "image")  # records about the same file are about one subject

_UNSAFE_IN_KEY = re.compile(
    r"[^A-Za-z0-9_/-]"
)  # a key ends at its first dot, by the rule of WebDataset


@dataclass(frozen=True)
class SampleSpec:
    """Something to ask about, and all questions about it.

    Attributes:
        files: paths inside the folder of files: one video, one picture, several pictures, or none.
        record: number of the subject's record in the question file; 0 for a file that several records may be about.
        questions: in the order of the question file.
    """

    modality: Modality
    files: tuple[str, ...]
    record: int
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """Its name in the tar: from its path, or else from its record."""
        if self.record:
            return f"record_{self.record:08d}"
        return _UNSAFE_IN_KEY.sub("_", str(PurePosixPath(self.files[0]).with_suffix("")))

    @property
    def name(self) -> str:
        """How messages call it: by its path, or else by its key."""
        return self.key if self.record else self.files[0]


def count_modalities(kinds: Iterable[Modality]) -> dict[Modality, int]:
    """How many there are of each kind."""
    found = list(kinds)
    return {kind: found.count(kind) for kind in MODALITIES}


def format_counts(num_subjects: Mapping[Modality, int]) -> str:
    """The counts in words, without the kinds of which there are none: "5 videos, 2 texts"."""
    return (
        ", ".join(f"{num} {MODALITY_PLURALS[kind]}" for kind, num in num_subjects.items() if num)
        or "nothing"
    )
