"""Question records: parsing and validation (`parse_question`), placeholders, and `SampleSpec`.

A placeholder such as `<image>` marks the position of an image in the text of a question. It matters
for image sets only: a single image or video always comes before the first question.
"""

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
MAX_OPTIONS = 26  # one per letter
LETTER = re.compile(r"\(?([A-Z])[.)]?")


def parse_question(record: dict[str, Any], location: str) -> Question:
    """Parse a record of the project's own format, including its id.

    Args:
        record: mapping with the keys that `question_record` writes; `FILE_KEYS` are allowed too.
        location: the file and the record, for errors.

    Raises:
        QuestionError: a key is missing or unknown, or has an invalid value.
    """
    if not isinstance(record, dict):
        raise QuestionError(f"{location}: a question must be a mapping, not {record!r}")
    for key in record:
        if key not in REQUIRED_KEYS + OPTIONAL_KEYS:
            raise QuestionError(
                f"{location}: unknown key {key!r}{did_you_mean(key, REQUIRED_KEYS + OPTIONAL_KEYS)}"
            )
    options = _options(record, location)
    default_format = "multiple_choice" if options else "open_ended"
    question_format: QuestionFormat = _choice(
        record, "format", default_format, get_args(QuestionFormat), location
    )
    if (question_format == "multiple_choice") != bool(options):
        raise QuestionError(
            f"{location}: key 'options': multiple_choice needs options,"
            " open_ended must not have any"
        )
    answer = text_of(record, "answer", location)
    return Question(
        id=_identifier(record, location),
        task=_choice(record, "task", "", tuple(TASK_OF_KEY), location),
        format=question_format,
        question=text_of(record, "question", location),
        answer=_right_option(answer, options, location) if options else answer,
        options=options,
        evidence=_evidence(record, location),
    )


def question_record(question: Question) -> dict[str, Any]:
    """Convert a question to a JSON record; the inverse of `parse_question`."""
    return {
        "id": question.id,
        "task": question.task,
        "format": question.format,
        "question": question.question,
        "options": list(question.options),
        "answer": question.answer,
        "evidence": [list(interval) for interval in question.evidence],
    }


def text_of(record: dict[str, Any], key: str, location: str) -> str:
    """Return the text of a required key, without surrounding whitespace.

    Raises:
        QuestionError: the key is missing, or the value is not a string or is empty.
    """
    if key not in record:
        raise QuestionError(f"{location}: key '{key}' is missing{did_you_mean(key, record)}")
    return check_text(record[key], key, location)


def check_text(value: Any, key: str, location: str) -> str:
    """Check that a key's value is a nonempty string, and strip surrounding whitespace.

    Raises:
        QuestionError: the value is not a string or is empty, or contains a lone surrogate.
    """
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(f"{location}: key '{key}' must be a nonempty text, not {value!r}")
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise QuestionError(f"{location}: key '{key}' contains a lone surrogate: {value!r}")
    return value.strip()


def check_path(value: Any, key: str, location: str) -> str:
    """Check that a key's value is a path inside the folder of files, and normalize it.

    Raises:
        QuestionError: the value is not a string, or the path leads out of the folder.
    """
    path = PurePosixPath(check_text(value, key, location))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in str(path):
        raise QuestionError(
            f"{location}: key '{key}': {value!r} must be a path inside the folder of files"
        )
    return str(path)


def did_you_mean(word: str, choices: Iterable[str], min_similarity: float = 0.6) -> str:
    """Format a suggestion for an unknown word: the closest of `choices`, or an empty string."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=min_similarity)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _identifier(record: dict[str, Any], location: str) -> str:
    identifier = record.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        raise QuestionError(
            f"{location}: key 'id' must be a text or an integer, not {identifier!r}"
        )
    return str(identifier)


def _choice(
    record: dict[str, Any], key: str, default: str, choices: tuple[str, ...], location: str
) -> Any:
    value = record.get(key, default)
    if value != default and value not in choices:
        raise QuestionError(
            f"{location}: key '{key}': unknown value {value!r}{did_you_mean(str(value), choices)}"
        )
    return value


def _options(record: dict[str, Any], location: str) -> tuple[str, ...]:
    options = record.get("options", [])
    if not isinstance(options, list) or not all(
        isinstance(option, str) and option.strip() for option in options
    ):
        raise QuestionError(
            f"{location}: key 'options' must be a list of nonempty texts, not {options!r}"
        )
    texts = tuple(option.strip() for option in options)
    if len(set(texts)) < len(texts):
        raise QuestionError(f"{location}: key 'options' repeats an option: {options!r}")
    if len(texts) == 1 or len(texts) > MAX_OPTIONS:
        raise QuestionError(f"{location}: key 'options' has {len(texts)}. Give 2 to {MAX_OPTIONS}")
    return texts


def _right_option(answer: str, options: tuple[str, ...], location: str) -> str:
    """Return the option that the answer gives by its text or its letter."""
    if answer in options:
        return answer
    letter = LETTER.fullmatch(answer)
    index = ord(letter[1]) - ord("A") if letter else len(options)
    if index >= len(options):
        raise QuestionError(
            f"{location}: key 'answer': {answer!r} is not among the options {list(options)!r}"
        )
    return options[index]


def _evidence(record: dict[str, Any], location: str) -> tuple[tuple[float, float], ...]:
    intervals = record.get("evidence", [])
    if not isinstance(intervals, list) or not all(_is_interval(interval) for interval in intervals):
        raise QuestionError(
            f"{location}: key 'evidence' must be a list of [start, end] in seconds,"
            f" not {intervals!r}"
        )
    return tuple((float(start), float(end)) for start, end in intervals)


def _is_interval(interval: Any) -> bool:
    if not isinstance(interval, list) or len(interval) != 2:
        return False
    if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in interval):
        return False
    return 0 <= interval[0] <= interval[1] < math.inf


_PLACEHOLDER = re.compile("<(?:image|video)>")


def validate_placeholders(
    questions: Sequence[Question], modality: Modality, num_files: int, location: str
) -> tuple[Question, ...]:
    """Check the placeholders of one record's questions, and remove them where they have no meaning.

    Only the questions of an image set keep them, one placeholder per image.

    Args:
        questions: questions of the record.
        modality: modality of the record.
        num_files: number of files of the record.
        location: file and record, for errors.

    Raises:
        QuestionError: there are placeholders without images, their number differs from the number
            of images, or a text contains nothing but placeholders.
    """
    placeholders = [
        placeholder
        for question in questions
        for placeholder in _PLACEHOLDER.findall(question.question)
    ]
    if modality == "text":
        if placeholders:
            raise QuestionError(
                f"{location}: a question has the placeholder {placeholders[0]},"
                " but the record has no video or image"
            )
        return tuple(questions)
    for question in questions:
        if not _strip(question.question) or not _strip(question.answer):
            raise QuestionError(
                f"{location}: the question {question.id!r} or its answer is empty"
                " except for placeholders"
            )
    if modality == "images":
        if placeholders and placeholders != [IMAGE_TOKEN] * num_files:
            raise QuestionError(
                f"{location}: the questions have the placeholders {' '.join(placeholders)}"
                f" for {num_files} images."
                f" Use {IMAGE_TOKEN} once per image, or not at all"
            )
        answers = [text for question in questions for text in (question.answer, *question.options)]
        if any(_PLACEHOLDER.search(text) for text in answers):
            raise QuestionError(
                f"{location}: an answer or an option has a placeholder."
                " With several images, only questions may have them"
            )
        return tuple(questions)
    return tuple(_without_placeholders(question) for question in questions)


def drop_partial_placeholders(
    questions: Sequence[Question], num_images: int
) -> tuple[Question, ...]:
    """Remove the placeholders from a subset of a sample's questions unless it has all of them."""
    num_placeholders = sum(question.question.count(IMAGE_TOKEN) for question in questions)
    if num_placeholders in (0, num_images):
        return tuple(questions)
    return tuple(_without_placeholders(question) for question in questions)


def _without_placeholders(question: Question) -> Question:
    """Remove the placeholders from a question, and from its answer unless it is an option."""
    answer = question.answer if question.options else _strip(question.answer)
    return replace(question, question=_strip(question.question), answer=answer)


def _strip(text: str) -> str:
    return _PLACEHOLDER.sub("", text).strip()


Modality = Literal["video", "image", "images", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
MODALITY_PLURALS: dict[Modality, str] = {
    "video": "videos",
    "image": "images",
    "images": "image sets",
    "text": "texts",
}
MULTI_RECORD_MODALITIES = ("video", "image")  # several records may share a file

# In WebDataset a key ends at its first dot.
_UNSAFE_IN_KEY = re.compile(r"[^A-Za-z0-9_/-]")


@dataclass(frozen=True)
class SampleSpec:
    """A sample to pack: its files and all questions about them.

    Attributes:
        modality: kind of the sample.
        files: paths inside the folder of files: one video, one image, several images, or none.
        record: number of the record in the question file; 0 for a video or image, which several
            records may share.
        questions: questions in the order of the question file.
    """

    modality: Modality
    files: tuple[str, ...]
    record: int
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """Return the sample's key in the tar, derived from its path or its record number."""
        if self.record:
            return f"record_{self.record:08d}"
        return _UNSAFE_IN_KEY.sub("_", str(PurePosixPath(self.files[0]).with_suffix("")))

    @property
    def name(self) -> str:
        """Return the sample's name for messages: its path, or else its key."""
        return self.key if self.record else self.files[0]


def count_modalities(modalities: Iterable[Modality]) -> dict[Modality, int]:
    """Count the samples of each modality."""
    found = list(modalities)
    return {modality: found.count(modality) for modality in MODALITIES}


def format_counts(num_subjects: Mapping[Modality, int]) -> str:
    """Format nonzero counts as text, for example "5 videos, 2 texts"."""
    return (
        ", ".join(
            f"{num} {MODALITY_PLURALS[modality]}" for modality, num in num_subjects.items() if num
        )
        or "nothing"
    )
