"""Read a question file. `shards/README.md` specifies its two formats: our own and LLaVA's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lit_hour.data.questions.record import (
    FILE_KEYS,
    MULTI_RECORD_MODALITIES,
    Modality,
    SampleSpec,
    check_path,
    check_text,
    did_you_mean,
    parse_question,
    validate_placeholders,
)
from lit_hour.errors import QuestionError
from lit_hour.types import Question

HUMAN_ROLES, MODEL_ROLES = ("human", "user"), ("gpt", "assistant")
TYPO_CUTOFF = (
    0.8  # similarity of words that differ in a letter or two; "image" ~ "image_id" is lower
)


def read_questions(file: Path) -> tuple[SampleSpec, ...]:
    """Read a `.json` or `.jsonl` file, and group its questions into samples in order of appearance.

    Raises:
        QuestionError: the file is missing or not JSON, or a record is invalid.
    """
    questions_of: dict[tuple[Modality, tuple[str, ...], int], list[Question]] = {}
    record_of_id: dict[str, int] = {}
    for number, record in enumerate(_read_records(file), start=1):
        location = f"{file}: record {number}"
        if "id" in record:
            location += f" (id {record['id']!r})"
        if "conversations" in record:
            questions = _parse_conversation(record, number, location)
        else:
            questions = [parse_question({"id": f"record_{number}", **record}, location)]
        modality, files = _modality_and_files(record, location)
        for question in validate_placeholders(questions, modality, len(files), location):
            if question.id in record_of_id:
                raise QuestionError(
                    f"{location}: key 'id': {question.id!r} is also the id of record"
                    f" {record_of_id[question.id]}. Ids must be unique."
                )
            record_of_id[question.id] = number
            group = (modality, files, 0 if modality in MULTI_RECORD_MODALITIES else number)
            questions_of.setdefault(group, []).append(question)
    if not questions_of:
        raise QuestionError(f"{file} contains no questions.")
    return tuple(SampleSpec(*group, tuple(questions)) for group, questions in questions_of.items())


def _read_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON list or of JSON lines; blank lines are skipped."""
    if file.suffix not in (".json", ".jsonl"):
        raise QuestionError(
            f"{file} must be a .json file with a list of records, or a .jsonl file with one per "
            "line."
        )
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"Cannot read the question file {file}: {error}.") from error
    if file.suffix == ".jsonl":
        lines = enumerate(content.split("\n"), start=1)
        records = [
            _parse_json(line, f"{file}: line {number}") for number, line in lines if line.strip()
        ]
    else:
        records = _parse_json(content, str(file))
    if not isinstance(records, list):
        raise QuestionError(f"{file} must be a list of records, not a {type(records).__name__}.")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise QuestionError(
                f"{file}: record {number} must be a mapping, not a {type(record).__name__}."
            )
        yield record


def _parse_json(content: str, location: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise QuestionError(f"{location} is not valid JSON: {error}.") from error


def _parse_conversation(record: dict[str, Any], number: int, location: str) -> list[Question]:
    """Parse a record of LLaVA's format: each pair of turns is an open-ended question.

    LLaVA's ids may repeat, so the ids of the questions include the record's number.
    """
    location += ": key 'conversations'"
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise QuestionError(f"{location} must be a list of pairs of a human and a gpt turn.")
    texts = [
        _turn_text(turn, f"{location}: turn {index}") for index, turn in enumerate(turns, start=1)
    ]
    questions = []
    for index in range(0, len(turns), 2):
        roles = turns[index]["from"], turns[index + 1]["from"]
        if roles[0] not in HUMAN_ROLES or roles[1] not in MODEL_ROLES:
            raise QuestionError(
                f"{location}: turns {index + 1} and {index + 2} must be from human, then gpt."
            )
        questions.append(
            Question(
                id=f"{record.get('id', 'record')}_{number}_{index // 2 + 1}",
                task="",
                format="open_ended",
                question=texts[index],
                answer=texts[index + 1].strip(),
            )
        )
    return questions


def _turn_text(turn: Any, location: str) -> str:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise QuestionError(f"{location} must be a mapping with 'from' and 'value'.")
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
