"""A question file in, what it asks about and all questions out. `shards/README.md` describes the two formats that are read."""

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
MISSPELT = 0.8  # difflib's likeness of two words that differ in a letter or two; "image" and "image_id" are less alike


def read_questions(file: Path) -> tuple[SampleSpec, ...]:
    """What a `.json` or `.jsonl` file asks about, in the order in which it is first named.

    Raises:
        QuestionError: the file is missing or not JSON, or a record in it cannot be used.
    """
    asked: dict[tuple[Modality, tuple[str, ...], int], list[Question]] = {}
    place_of_id: dict[str, str] = {}
    for number, record in enumerate(_read_records(file), start=1):
        place = f"{file}: record {number}" + (f" (id {record['id']!r})" if "id" in record else "")
        parse = _parse_conversations if "conversations" in record else _parse_single
        questions = list(parse(record, number, place))
        kind, files = _kind_and_files(record, place)
        for question in validate_placeholders(questions, kind, len(files), place):
            if question.id in place_of_id:
                raise QuestionError(
                    f"{place}: key 'id': the id is taken by {place_of_id[question.id]}; ids must be unique"
                )
            place_of_id[question.id] = f"record {number}"
            asked.setdefault(
                (kind, files, 0 if kind in MULTI_RECORD_MODALITIES else number), []
            ).append(question)
    if not asked:
        raise QuestionError(f"{file} holds no question")
    return tuple(
        SampleSpec(kind, files, number, tuple(questions))
        for (kind, files, number), questions in asked.items()
    )


def _read_records(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON list, or of JSON lines; blank lines do not count."""
    if file.suffix not in (".json", ".jsonl"):
        raise QuestionError(
            f"{file}: a question file is a .json list or has one record in each line of a .jsonl"
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
        raise QuestionError(f"{file} has to be a list of records, not a {type(records).__name__}")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise QuestionError(
                f"{file}: record {number} has to be a mapping, not a {type(record).__name__}"
            )
        yield record


def _parse_json(content: str, place: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise QuestionError(f"{place} is not JSON: {error}") from error


def _parse_single(record: dict[str, Any], number: int, place: str) -> Iterator[Question]:
    yield parse_question({"id": f"record_{number}", **record}, place)


def _parse_conversations(record: dict[str, Any], number: int, place: str) -> Iterator[Question]:
    """Each pair of turns is one open-ended question. LLaVA's ids may repeat, so the record's number is part of ours."""
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise QuestionError(
            f"{place}: key 'conversations' has to be a list of pairs, a human turn and a gpt turn"
        )
    texts = [
        _turn_text(turn, f"{place}: key 'conversations': turn {index}")
        for index, turn in enumerate(turns, start=1)
    ]
    for index in range(0, len(turns), 2):
        if turns[index]["from"] not in ASKERS or turns[index + 1]["from"] not in ANSWERERS:
            raise QuestionError(
                f"{place}: key 'conversations': turns {index + 1} and {index + 2} must be human, then gpt"
            )
        identifier = f"{record.get('id', 'record')}_{number}_{index // 2 + 1}"
        yield Question(
            identifier, task="", format="open_ended", question=texts[index], answer=texts[index + 1]
        )


def _turn_text(turn: Any, place: str) -> str:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise QuestionError(f"{place} has to be a mapping with 'from' and 'value'")
    return text_of(turn, "value", place)


def _kind_and_files(record: dict[str, Any], place: str) -> tuple[Modality, tuple[str, ...]]:
    """What a record is about. One picture in a list is one picture."""
    keys = [key for key in FILE_KEYS if key in record]
    if len(keys) > 1:
        raise QuestionError(
            f"{place}: has the keys {' and '.join(map(repr, keys))}: a record is about one of them"
        )
    if not keys:
        for key in record:
            if hint := did_you_mean(key, FILE_KEYS, MISSPELT):
                raise QuestionError(f"{place}: key {key!r} is unknown{hint}")
        return "text", ()
    (key,) = keys
    names = record[key] if key != "video" and isinstance(record[key], list) else [record[key]]
    if not names:
        raise QuestionError(
            f"{place}: key '{key}' is an empty list: name pictures, or leave the key out"
        )
    files = tuple(_file_name(name, key, record, place) for name in names)
    if key == "video":
        return "video", files
    return ("image" if len(files) == 1 else "images"), files


def _file_name(name: Any, key: str, record: dict[str, Any], place: str) -> str:
    """The path inside the folder of files; LLaVA's records may hold the sub-folder in 'data_source'."""
    if "conversations" in record and "data_source" in record:
        name = str(
            PurePosixPath(text_of(record, "data_source", place), check_text(name, key, place))
        )
    return check_path(name, key, place)
