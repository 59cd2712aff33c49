"""Question records, their placeholders, and the samples that they are grouped into.

`parse_question` validates a record of our own format, `SampleSpec` is what all records about one
video, image, image set or text become. `shards/README.md` specifies the format.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from lit_hour.errors import QuestionError
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import IMAGE_TOKEN, Question, QuestionFormat, Subtitle

Interval = tuple[float, float]  # start and end in seconds
Modality = Literal["video", "image", "images", "text"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
MODALITY_PLURALS: dict[Modality, str] = {
    "video": "videos",
    "image": "images",
    "images": "image sets",
    "text": "texts",
}
MULTI_RECORD_MODALITIES = ("video", "image")  # all records about the same file are one sample

REQUIRED_KEYS = ("question", "answer")
FILE_KEYS = ("video", "image", "images")
SAMPLE_KEYS = (*FILE_KEYS, "start", "end", "system_prompt")  # of the sample, not of the question
OPTIONAL_KEYS = (*SAMPLE_KEYS, "id", "task", "format", "options", "evidence", "rejected")
MAX_OPTIONS = 26  # one for each letter
HASH_DIGITS = 12  # of SHA-256 in keys that would be equal otherwise
LETTER = re.compile(r"\(?([A-Z])[.)]?")

_PLACEHOLDER = re.compile("<(?:image|video)>")
_UNSAFE_IN_KEY = re.compile(r"[^A-Za-z0-9_/-]")  # WebDataset: a key ends at its first dot


@dataclass(frozen=True)
class SampleSpec:
    """A sample to be packed: a video, image, image set or text, with all questions about it.

    Attributes:
        files: paths inside the folder of files; none for a text.
        record: number of the record in the question file; 0 for a file that several records may
            share.
        questions: in the order of the question file.
        clip_seconds: start and end of the part of the video that the sample is about; the end is
            infinite for the end of the video. None for the whole video.
        system_prompt: replaces `text.system_prompt` if it is not empty.
        subtitle_file: path inside the folder of files of the subtitles of a video, "" for none.
        subtitles: read from this file, with times from the start of the part.
        is_ambiguous: the file is in several samples, or another one has the same readable key; a
            hash then makes the key unique.
    """

    modality: Modality
    files: tuple[str, ...]
    record: int
    questions: tuple[Question, ...]
    clip_seconds: Interval | None = None
    system_prompt: str = ""
    is_ambiguous: bool = False
    subtitle_file: str = ""
    subtitles: tuple[Subtitle, ...] = ()

    @property
    def readable_key(self) -> str:
        """Path without suffix, and the part of the video in milliseconds, or the record."""
        if self.record:
            return f"record_{self.record:08d}"
        key = _UNSAFE_IN_KEY.sub("_", str(PurePosixPath(self.files[0]).with_suffix("")))
        if self.clip_seconds is None:
            return key
        return "-".join([key, *map(_format_milliseconds, self.clip_seconds)])

    @property
    def key(self) -> str:
        """WebDataset key, unique among the samples of the question file."""
        if not self.is_ambiguous:
            return self.readable_key
        identity = json.dumps(
            [self.modality, self.files, self.record, self.clip_seconds, self.system_prompt]
        ).encode()
        return f"{self.readable_key}-{hashlib.sha256(identity).hexdigest()[:HASH_DIGITS]}"

    @property
    def name(self) -> str:
        """Path with the part of the video, or key, for messages."""
        if self.record:
            return self.key
        return self.files[0] + format_clip(self.clip_seconds)


@dataclass(frozen=True)
class InvalidRecord:
    """A record of a question file that cannot be used, and the reason."""

    location: str
    reason: str


def format_clip(clip_seconds: Interval | None) -> str:
    """Return the part of a video for messages, such as " (10 s to 14.5 s)"; "" for all of it."""
    if clip_seconds is None:
        return ""
    start, end = clip_seconds
    return f" ({start:g} s to {'its end' if end == math.inf else f'{end:g} s'})"


def _format_milliseconds(seconds: float) -> str:
    return "end" if seconds == math.inf else str(round(seconds * 1000))


def format_counts(counts: Mapping[Modality, int]) -> str:
    """Format the counts that are not 0: "5 videos, 2 texts"."""
    return (
        ", ".join(
            f"{counts[modality]} {MODALITY_PLURALS[modality]}"
            for modality in MODALITIES
            if counts[modality]
        )
        or "nothing"
    )


def parse_question(record: dict[str, Any], location: str) -> Question:
    """Parse a record of our own format that has an id.

    Args:
        record: the keys that `question_record` writes, and possibly `FILE_KEYS`.
        location: the file and the record, for errors.

    Raises:
        QuestionError: a key is missing or unknown, or has an invalid value.
    """
    if not isinstance(record, dict):
        raise QuestionError(f"{location}: a question must be a mapping, not {record!r}.")
    known = REQUIRED_KEYS + OPTIONAL_KEYS
    for key in record:
        if key not in known:
            raise QuestionError(f"{location}: unknown key {key!r}{did_you_mean(key, known)}")
    for key in REQUIRED_KEYS:
        if key not in record:
            raise QuestionError(f"{location}: key '{key}' is missing{did_you_mean(key, record)}")
    identifier = record.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        raise QuestionError(
            f"{location}: key 'id' must be a text or a whole number, not {identifier!r}."
        )
    options = _parse_options(record, location)
    default = "multiple_choice" if options else "open_ended"
    formats = get_args(QuestionFormat)
    question_format: QuestionFormat = _parse_choice(record, "format", default, formats, location)
    if (question_format == "multiple_choice") != bool(options):
        raise QuestionError(
            f"{location}: key 'options' is required for multiple_choice, and not allowed for "
            "open_ended."
        )
    answer = check_text(record["answer"], "answer", location)
    if options:
        answer = _known_option(answer, "answer", options, location)
    check_text(record["question"], "question", location)
    return Question(
        id=str(identifier),
        task=_parse_choice(record, "task", "", tuple(TASK_OF_KEY), location),
        format=question_format,
        question=record["question"],
        answer=answer,
        options=options,
        evidence=_parse_evidence(record, location),
        rejected=parse_rejected(record, answer, options, location),
    )


def question_record(question: Question) -> dict[str, Any]:
    """Return a question as JSON stores it; `parse_question` is the inverse.

    Only a preference pair has a rejected answer.
    """
    pair = {"rejected": question.rejected} if question.rejected else {}
    return {
        "id": question.id,
        "task": question.task,
        "format": question.format,
        "question": question.question,
        "options": list(question.options),
        "answer": question.answer,
        "evidence": [list(interval) for interval in question.evidence],
        **pair,
    }


def sample_record(
    modality: Modality,
    files: Sequence[str],
    clip_seconds: Interval | None = None,
    system_prompt: str = "",
) -> dict[str, Any]:
    """Return the keys of a record that describe its files, clip and system prompt."""
    record: dict[str, Any] = {}
    if modality == "images":
        record["images"] = list(files)
    elif modality != "text":
        record[modality] = files[0]
    if clip_seconds is not None:
        record["start"] = clip_seconds[0]
        if clip_seconds[1] != math.inf:
            record["end"] = clip_seconds[1]
    if system_prompt:
        record["system_prompt"] = system_prompt
    return record


def check_text(value: Any, key: str, location: str) -> str:
    """Return the value of a key as stripped text.

    Raises:
        QuestionError: it is not a text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(f"{location}: key '{key}' must be a nonempty text, not {value!r}.")
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise QuestionError(f"{location}: key '{key}' contains a lone surrogate: {value!r}.")
    return value.strip()


def check_path(value: Any, key: str, location: str) -> str:
    """Return the value of a key as a path inside the folder of files.

    Raises:
        QuestionError: it is not a text, or leads out of the folder.
    """
    path = PurePosixPath(check_text(value, key, location))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in str(path):
        raise QuestionError(
            f"{location}: key '{key}' must be a path inside the folder of files, not {value!r}."
        )
    return str(path)


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the end of an error message that suggests the most similar known word."""
    similar = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def validate_placeholders(
    questions: Sequence[Question], modality: Modality, num_files: int, location: str
) -> tuple[Question, ...]:
    """Check the `<image>` and `<video>` placeholders in the questions of one record.

    In questions about an image set they mark the positions of the images: one for each, or none. A
    single image or video is always in front of the first question, so there they are removed.

    Args:
        questions: of the record.
        modality: of the record.
        num_files: number of images or videos of the record.
        location: the file and the record, for errors.

    Raises:
        QuestionError: there are placeholders without images, another number of them than of images,
            or nothing else.
    """
    found = [match for question in questions for match in _PLACEHOLDER.findall(question.question)]
    if modality == "text":
        if found:
            raise QuestionError(
                f"{location}: a question contains {found[0]}, but the record has no video or image."
            )
        return tuple(questions)
    for question in questions:
        texts = (question.question, question.answer)
        if not all(_PLACEHOLDER.sub("", text).strip() for text in texts):
            raise QuestionError(
                f"{location}: question {question.id!r} or its answer has no text beside "
                "placeholders."
            )
    if modality == "images":
        if found and found != [IMAGE_TOKEN] * num_files:
            raise QuestionError(
                f"{location}: the questions contain {' '.join(found)} for {num_files} images."
                f" Use {IMAGE_TOKEN} once for each image, or not at all."
            )
        answers = [text for one in questions for text in (one.answer, one.rejected, *one.options)]
        if any(_PLACEHOLDER.search(text) for text in answers):
            raise QuestionError(
                f"{location}: an answer or option contains a placeholder."
                " For image sets only questions may have placeholders."
            )
        return tuple(questions)
    return tuple(_without_placeholders(question) for question in questions)


def drop_partial_placeholders(
    questions: Sequence[Question], num_images: int
) -> tuple[Question, ...]:
    """Remove the placeholders from some questions, unless they have one for each image."""
    num_placeholders = sum(question.question.count(IMAGE_TOKEN) for question in questions)
    if num_placeholders in (0, num_images):
        return tuple(questions)
    return tuple(_without_placeholders(question) for question in questions)


def _parse_choice(
    record: dict[str, Any], key: str, default: str, choices: tuple[str, ...], location: str
) -> Any:
    value = record.get(key, default)
    if value != default and value not in choices:
        raise QuestionError(
            f"{location}: key '{key}' has the unknown value {value!r}"
            f"{did_you_mean(str(value), choices)}"
        )
    return value


def _parse_options(record: dict[str, Any], location: str) -> tuple[str, ...]:
    options = record.get("options", [])
    if not isinstance(options, list) or not all(
        isinstance(option, str) and option.strip() for option in options
    ):
        raise QuestionError(
            f"{location}: key 'options' must be a list of nonempty texts, not {options!r}."
        )
    texts = tuple(option.strip() for option in options)
    if len(set(texts)) < len(texts):
        raise QuestionError(f"{location}: key 'options' repeats an option: {options!r}.")
    if len(texts) == 1 or len(texts) > MAX_OPTIONS:
        raise QuestionError(
            f"{location}: key 'options' has {len(texts)} options; 2 to {MAX_OPTIONS} are allowed."
        )
    return texts


def parse_rejected(
    record: dict[str, Any], answer: str, options: tuple[str, ...], location: str
) -> str:
    """Return the rejected answer of a preference pair; "" without one."""
    if "rejected" not in record:
        return ""
    rejected = check_text(record["rejected"], "rejected", location)
    if options:
        rejected = _known_option(rejected, "rejected", options, location)
    if rejected == answer:
        raise QuestionError(
            f"{location}: key 'rejected' is the chosen answer too: {rejected!r}. Remove the record."
        )
    return rejected


def _known_option(answer: str, key: str, options: tuple[str, ...], location: str) -> str:
    """Return the option that an answer names by its text, or else by its letter."""
    if answer in options:
        return answer
    letter = LETTER.fullmatch(answer)
    index = ord(letter[1]) - ord("A") if letter else len(options)
    if index >= len(options):
        raise QuestionError(
            f"{location}: key '{key}': {answer!r} is not among the options {list(options)!r}."
        )
    return options[index]


def _parse_evidence(record: dict[str, Any], location: str) -> tuple[tuple[float, float], ...]:
    intervals, parsed = record.get("evidence", []), []
    for interval in intervals if isinstance(intervals, list) else [intervals]:
        match interval:
            case [int() | float() as start, int() | float() as end] if (
                0 <= start <= end <= sys.float_info.max and bool not in (type(start), type(end))
            ):
                parsed.append((float(start), float(end)))
            case _:
                raise QuestionError(
                    f"{location}: key 'evidence' must be a list of [start, end] in seconds,"
                    f" not {intervals!r}."
                )
    return tuple(parsed)


def _without_placeholders(question: Question) -> Question:
    """Remove placeholders from a question, and keep the blanks around them.

    Options keep theirs, and so does an answer that is an option.
    """
    answers = [question.answer, question.rejected]
    if not question.options:
        answers = [_PLACEHOLDER.sub("", answer).strip() for answer in answers]
    text = _PLACEHOLDER.sub("", question.question)
    return replace(question, question=text, answer=answers[0], rejected=answers[1])
