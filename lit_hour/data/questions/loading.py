"""Load the raw records of a question file: a JSON list, or JSON values one after the other.

The content decides, not the suffix: JSON lines named `.json` and a list named `.jsonl` are read.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_hour.errors import QuestionError
from lit_hour.io.file_kinds import HEAD_BYTES, describe_wrong_kind

JSON_SUFFIXES = (".json", ".jsonl")
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_RECORD_KEYS = {"question", "conversations", "messages"}  # of a file with one record and no list


def load_records(file: Path) -> Iterator[dict[str, Any] | QuestionError]:
    """Yield the records of a file in order, and an error in place of each that is not a mapping.

    Blank lines are skipped.

    Raises:
        QuestionError: the file is missing, or contains something else than JSON records.
    """
    if file.suffix.lower() not in JSON_SUFFIXES:
        raise QuestionError(
            f"{file} must be a .json file with a list of records, or a .jsonl file with one per"
            " line. `lit-hour import` reads tables (.csv, .tsv, .parquet)."
        )
    content = _read_text(file)
    is_lines = file.suffix.lower() == ".jsonl"
    try:
        records = json.loads(content)
    except ValueError as error:  # also of numbers with thousands of digits
        if not is_lines and not _starts_with_records(content):
            raise QuestionError(f"{file} is not valid JSON: {error}.") from error
        yield from _load_lines(content, file)
        return
    except RecursionError as error:
        raise QuestionError(f"{file} is not valid JSON: it is nested too deeply.") from error
    if isinstance(records, dict) and (is_lines or _RECORD_KEYS & records.keys()):
        records = [records]
    if not isinstance(records, list):
        raise QuestionError(f"{file} must be a list of records, not a {type(records).__name__}.")
    for number, record in enumerate(records, start=1):
        yield _check_record(record, f"{file}: record {number}")


def _read_text(file: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise QuestionError(
            f"Cannot read the question file {file}: {error.strerror}. Give the path of a file."
        ) from error
    if kind := describe_wrong_kind(content[:HEAD_BYTES]):
        raise QuestionError(f"{file} {kind}")
    try:
        return content.decode(_BYTE_ORDER_MARKS.get(content[:2], "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise QuestionError(
            f"Cannot read the question file {file}: {error}. Save it as UTF-8."
        ) from error


def _starts_with_records(content: str) -> bool:
    """Return whether a text begins with a whole JSON mapping that something follows."""
    try:
        record, _ = json.JSONDecoder().raw_decode(content.lstrip())
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict)


def _load_lines(content: str, file: Path) -> Iterator[dict[str, Any] | QuestionError]:
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            location = f"{file}: line {number}"
            try:
                yield _check_record(json.loads(line), location)
            except (ValueError, RecursionError) as error:
                yield QuestionError(f"{location} is not valid JSON: {error}.")


def _check_record(record: Any, location: str) -> dict[str, Any] | QuestionError:
    if isinstance(record, dict):
        return record
    return QuestionError(f"{location} must be a mapping, not a {type(record).__name__}.")
