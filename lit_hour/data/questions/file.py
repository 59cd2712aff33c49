"""Read a question file. `shards/README.md` specifies its forms: our own, LLaVA's and its kin."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from lit_hour.data.questions.forms import HUMAN_ROLES, MODEL_ROLES, unify_record
from lit_hour.data.questions.loading import load_records
from lit_hour.data.questions.record import (
    FILE_KEYS,
    MULTI_RECORD_MODALITIES,
    OPTIONAL_KEYS,
    REQUIRED_KEYS,
    SAMPLE_KEYS,
    Interval,
    InvalidRecord,
    Modality,
    SampleSpec,
    check_path,
    check_text,
    did_you_mean,
    parse_question,
    parse_rejected,
    validate_placeholders,
)
from lit_hour.errors import QuestionError
from lit_hour.types import Question

TYPO_CUTOFF = (
    0.8  # similarity of words that differ in a letter or two; "image" ~ "image_id" is lower
)
MIN_TYPO_LETTERS = 4  # shorter keys, such as "idx", are similar to too many
CONVERSATION_KEYS = (*SAMPLE_KEYS, "id", "data_source", "conversations", "rejected")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParsedRecord:
    """One record: what it is about, and its questions.

    Attributes:
        clip_seconds: start and end of the part of the video that it is about; None for all of it.
        system_prompt: of the record, "" for that of the settings.
        unused_keys: keys without a meaning here.
    """

    modality: Modality
    files: tuple[str, ...]
    clip_seconds: Interval | None
    system_prompt: str
    questions: tuple[Question, ...]
    unused_keys: tuple[str, ...]


@dataclass
class QuestionFile:
    """The content of a question file.

    Attributes:
        samples: in the order of their first record.
        invalid: records that were left out.
        unused_keys: how many records have each key without a meaning here.
    """

    samples: tuple[SampleSpec, ...] = ()
    invalid: list[InvalidRecord] = field(default_factory=list)
    unused_keys: Counter[str] = field(default_factory=Counter)


def read_questions(file: Path) -> tuple[SampleSpec, ...]:
    """Read a question file of which every record is valid; see `read_question_file`."""
    return read_question_file(file, setting="").samples


def read_question_file(
    file: Path, max_invalid: int = 0, setting: str = "pack.max_bad_samples"
) -> QuestionFile:
    """Read a `.json` or `.jsonl` file, and group its questions into samples.

    Keys that are not used are logged once.

    Args:
        file: the question file.
        max_invalid: number of records that may be invalid.
        setting: that sets this number, for errors; "" if there is none.

    Raises:
        QuestionError: the file is missing or not JSON, or too many records are invalid.
    """
    result = QuestionFile()
    questions_of: dict[tuple[Any, ...], list[Question]] = {}
    ids = UniqueIds()
    for number, record in enumerate(load_records(file), start=1):
        location = record_location(f"{file}: record {number}", record)
        try:
            if isinstance(record, QuestionError):
                raise record
            parsed = parse_record(record, number, location)
            ids.add(parsed.questions, number, location)
        except QuestionError as error:
            reason = str(error).removeprefix(f"{location}: ")
            result.invalid.append(InvalidRecord(location, reason))
            if len(result.invalid) > max_invalid:
                raise QuestionError(_with_advice(str(error), setting, max_invalid)) from error
            continue
        result.unused_keys.update(parsed.unused_keys)
        shared = parsed.modality in MULTI_RECORD_MODALITIES
        group = (
            parsed.modality,
            parsed.files,
            0 if shared else number,
            parsed.clip_seconds,
            parsed.system_prompt,
        )
        questions_of.setdefault(group, []).extend(parsed.questions)
    if not questions_of:
        raise QuestionError(f"{file} contains no questions.")
    result.samples = _unique_keys(
        SampleSpec(modality, files, record, tuple(questions), clip_seconds, system_prompt)
        for (modality, files, record, clip_seconds, system_prompt), questions in (
            questions_of.items()
        )
    )
    log_unused_keys(file, result.unused_keys)
    return result


def record_location(location: str, record: Any) -> str:
    """Return the location of a record with its id, if it has one."""
    if isinstance(record, dict) and record.get("id") is not None:
        return f"{location} (id {record['id']!r})"
    return location


def log_unused_keys(file: Path, unused_keys: Counter[str]) -> None:
    """Log the keys of records that have no meaning here, each once with its count."""
    if unused_keys:
        counts = ", ".join(f"{key!r} ({count} records)" for key, count in unused_keys.items())
        log.warning("%s has keys that are not used: %s.", file, counts)


def parse_record(record: dict[str, Any], number: int, location: str) -> ParsedRecord:
    """Parse a record of any form.

    Args:
        record: as `load_records` yields it.
        number: of the record in its file, from 1, for the ids of questions that have none.
        location: the file and the record, for errors.

    Raises:
        QuestionError: a key is missing or misspelt, or has an invalid value.
    """
    record = unify_record(record, location)
    if "conversations" in record:
        questions = _parse_conversation(record, number, location)
        known: tuple[str, ...] = CONVERSATION_KEYS
    else:
        known = (*REQUIRED_KEYS, *OPTIONAL_KEYS)
    absent = [key for key in known if key not in record]
    unused = tuple(key for key in record if key not in known)
    modality, files = _modality_and_files(record, location)
    for key in unused:
        hint = did_you_mean(key, absent, TYPO_CUTOFF) if len(key) >= MIN_TYPO_LETTERS else ""
        if hint and "conversations" not in record:
            raise QuestionError(f"{location}: unknown key {key!r}{hint}")
    if "conversations" not in record:
        own = {key: value for key, value in record.items() if key in known}
        questions = [parse_question({"id": f"record_{number}", **own}, location)]
    clip_seconds = _parse_clip(record, location)
    if clip_seconds is not None and modality != "video":
        raise QuestionError(f"{location}: 'start' and 'end' are of a video, but it names none.")
    system_prompt = record.get("system_prompt", "")
    if system_prompt:
        system_prompt = check_text(system_prompt, "system_prompt", location)
    return ParsedRecord(
        modality,
        files,
        clip_seconds,
        system_prompt,
        validate_placeholders(questions, modality, len(files), location),
        unused,
    )


class UniqueIds:
    """Ids of the questions of a file, which must differ."""

    def __init__(self) -> None:
        self._record_of: dict[str, int] = {}

    def add(self, questions: Iterable[Question], number: int, location: str) -> None:
        """Add the questions of one record.

        Raises:
            QuestionError: an id is that of another record. None of them is added.
        """
        for question in questions:
            if question.id in self._record_of:
                raise QuestionError(
                    f"{location}: key 'id': {question.id!r} is also the id of record"
                    f" {self._record_of[question.id]}. Ids must be unique."
                )
        self._record_of.update((question.id, number) for question in questions)


def _with_advice(reason: str, setting: str, max_invalid: int) -> str:
    if not setting:
        return reason
    end = "" if reason.endswith((".", "?")) else "."
    return f"{reason}{end} To leave such records out, raise {setting} (now {max_invalid})."


def _unique_keys(samples: Iterable[SampleSpec]) -> tuple[SampleSpec, ...]:
    """Mark the samples that share their readable key with another one."""
    samples = tuple(samples)
    count = Counter(sample.readable_key for sample in samples)
    return tuple(replace(sample, is_ambiguous=count[sample.readable_key] > 1) for sample in samples)


def _parse_conversation(record: dict[str, Any], number: int, location: str) -> list[Question]:
    """Parse a record of LLaVA's format: each pair of turns is an open-ended question.

    LLaVA's ids may repeat, so the ids of the questions include the record's number.
    """
    location += ": key 'conversations'"
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns:
        raise QuestionError(f"{location} must be a list of pairs of a human and a gpt turn.")
    texts = [
        _turn_text(turn, f"{location}: turn {index}") for index, turn in enumerate(turns, start=1)
    ]
    questions = []
    for index in range(0, len(turns) - 1, 2):
        roles = turns[index]["from"], turns[index + 1]["from"]
        if roles[0] not in HUMAN_ROLES or roles[1] not in MODEL_ROLES:
            raise QuestionError(
                f"{location}: turns {index + 1} and {index + 2} must be from human, then gpt, not"
                f" from {roles[0]}, then {roles[1]}."
            )
        questions.append(
            Question(
                id=f"{record.get('id', 'record')}_{number}_{index // 2 + 1}",
                task="",
                format="open_ended",
                question=texts[index],
                answer=texts[index + 1].strip(),
                rejected=parse_rejected(record, texts[index + 1].strip(), (), location),
            )
        )
    if "rejected" in record and len(turns) > 2:
        raise QuestionError(
            f"{location} of a preference pair must be one question and its answer, not"
            f" {len(turns)} turns. Write the earlier turns into the question."
        )
    if len(turns) % 2:
        raise QuestionError(
            f"{location} must be a list of pairs of a human and a gpt turn. Turn {len(turns)}, from"
            f" {turns[-1]['from']}, has no other: add the answer, or remove it."
        )
    return questions


def _turn_text(turn: dict[str, Any], location: str) -> str:
    check_text(turn["value"], "value", location)
    return str(turn["value"])


def _modality_and_files(record: dict[str, Any], location: str) -> tuple[Modality, tuple[str, ...]]:
    """Return what a record is about; a list with one image is an image."""
    keys = [key for key in FILE_KEYS if key in record]
    if len(keys) > 1:
        raise QuestionError(
            f"{location}: has the keys {' and '.join(map(repr, keys))}. Only one of them is "
            "allowed."
        )
    if not keys:
        for key in record:
            if hint := did_you_mean(key, FILE_KEYS, TYPO_CUTOFF):
                raise QuestionError(f"{location}: unknown key {key!r}{hint}")
        return "text", ()
    (key,) = keys
    names = record[key] if key != "video" and isinstance(record[key], list) else [record[key]]
    if not names:
        raise QuestionError(
            f"{location}: key '{key}' is an empty list. Name images, or remove the key."
        )
    files = tuple(_file_path(name, key, record, location) for name in names)
    if key == "video":
        return "video", files
    return ("image" if len(files) == 1 else "images"), files


def _file_path(name: Any, key: str, record: dict[str, Any], location: str) -> str:
    """Return a path inside the folder of files; LLaVA's 'data_source' is the sub-folder."""
    if "conversations" in record and "data_source" in record:
        sub_folder = check_text(record["data_source"], "data_source", location)
        name = str(PurePosixPath(sub_folder, check_text(name, key, location)))
    return check_path(name, key, location)


def _parse_clip(record: dict[str, Any], location: str) -> Interval | None:
    """Return the part of the video that a record is about; None for the whole video."""
    start, end = record.get("start", 0.0), record.get("end", math.inf)
    if start >= end:
        raise QuestionError(
            f"{location}: key 'end': {end:g} must be later than 'start': {start:g}."
        )
    return (start, end) if (start, end) != (0.0, math.inf) else None
