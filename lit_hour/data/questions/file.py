"""Read question files (`read_questions`). The two formats are specified in `shards/README.md`."""

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
    text_of,
    validate_placeholders,
)
from lit_hour.errors import QuestionError
from lit_hour.types import Question

ASKERS, ANSWERERS = ("human", "user"), ("gpt", "assistant")
TYPO_SIMILARITY = (
    0.8  # difflib ratio for one or two wrong letters; "image" and "image_id" are below
)


def read_questions(file: Path) -> tuple[SampleSpec, ...]:
    """Read a `.json` or `.jsonl` question file and group the questions by sample.

    Samples are in the order of their first question.

    Raises:
        QuestionError: the file is missing or not JSON, or a record is invalid.
    """
    by_sample: dict[tuple[Modality, tuple[str, ...], int], list[Question]] = {}
    record_of_id: dict[str, str] = {}
    for number, record in enumerate(_read_records(file), start=1):
        record_id = f" (id {record['id']!r})" if "id" in record else ""
        location = f"{file}: record {number}{record_id}"
        parse = _parse_conversations if "conversations" in record else _parse_single
        questions = list(parse(record, number, location))
        modality, files = _kind_and_files(record, location)
        for question in validate_placeholders(questions, modality, len(files), location):
            if question.id in record_of_id:
                raise QuestionError(
                    f"{location}: key 'id': the id is already used by"
                    f" {record_of_id[question.id]}. Ids must be unique"
                )
            record_of_id[question.id] = f"record {number}"
            by_sample.setdefault(
                (modality, files, 0 if modality in MULTI_RECORD_MODALITIES else number), []
            ).append(question)
    if not by_sample:
        raise QuestionError(f"{file} contains no questions")
    return tuple(
        SampleSpec(modality, files, number, tuple(questions))
        for (modality, files, number), questions in by_sample.items()
    )


def _read_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON list or of JSON Lines; blank lines are skipped."""
    if file.suffix not in (".json", ".jsonl"):
        raise QuestionError(
            f"{file}: a question file must be a .json list, or a .jsonl with one record per line"
        )
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"{file}: the question file cannot be read: {error}") from error
    if file.suffix == ".jsonl":
        lines = enumerate(content.split("\n"), start=1)
        records = [
            _parse_json(line, f"{file}: line {number}") for number, line in lines if line.strip()
        ]
    else:
        records = _parse_json(content, str(file))
    if not isinstance(records, list):
        raise QuestionError(f"{file} must be a list of records, not a {type(records).__name__}")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise QuestionError(
                f"{file}: record {number} must be a mapping, not a {type(record).__name__}"
            )
        yield record


def _parse_json(content: str, location: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise QuestionError(f"{location} is not JSON: {error}") from error


def _parse_single(record: dict[str, Any], number: int, location: str) -> Iterator[Question]:
    yield parse_question({"id": f"record_{number}", **record}, location)


def _parse_conversations(record: dict[str, Any], number: int, location: str) -> Iterator[Question]:
    """Yield one open-ended question for each pair of turns.

    Ids in LLaVA files may repeat, so the record number becomes part of the question's id.
    """
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise QuestionError(
            f"{location}: key 'conversations' must be a list of pairs, a human turn and a gpt turn"
        )
    texts = [
        _turn_text(turn, f"{location}: key 'conversations': turn {index}")
        for index, turn in enumerate(turns, start=1)
    ]
    for index in range(0, len(turns), 2):
        if turns[index]["from"] not in ASKERS or turns[index + 1]["from"] not in ANSWERERS:
            raise QuestionError(
                f"{location}: key 'conversations': turns {index + 1} and {index + 2}"
                " must be human, then gpt"
            )
        identifier = f"{record.get('id', 'record')}_{number}_{index // 2 + 1}"
        yield Question(
            identifier, task="", format="open_ended", question=texts[index], answer=texts[index + 1]
        )


def _turn_text(turn: Any, location: str) -> str:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise QuestionError(f"{location} must be a mapping with 'from' and 'value'")
    return text_of(turn, "value", location)


def _kind_and_files(record: dict[str, Any], location: str) -> tuple[Modality, tuple[str, ...]]:
    """Return the modality and the files of a record; a list with one image is one image."""
    keys = [key for key in FILE_KEYS if key in record]
    if len(keys) > 1:
        raise QuestionError(
            f"{location} has the keys {' and '.join(map(repr, keys))}."
            " A record may have only one of them"
        )
    if not keys:
        for key in record:
            if hint := did_you_mean(key, FILE_KEYS, TYPO_SIMILARITY):
                raise QuestionError(f"{location}: key {key!r} is unknown{hint}")
        return "text", ()
    (key,) = keys
    names = record[key] if key != "video" and isinstance(record[key], list) else [record[key]]
    if not names:
        raise QuestionError(
            f"{location}: key '{key}' is an empty list. Add images, or remove the key"
        )
    files = tuple(_file_name(name, key, record, location) for name in names)
    if key == "video":
        return "video", files
    return ("image" if len(files) == 1 else "images"), files


def _file_name(name: Any, key: str, record: dict[str, Any], location: str) -> str:
    """Return the path inside the folder of files, with LLaVA's 'data_source' as its subfolder."""
    if "conversations" in record and "data_source" in record:
        name = str(
            PurePosixPath(text_of(record, "data_source", location), check_text(name, key, location))
        )
    return check_path(name, key, location)
