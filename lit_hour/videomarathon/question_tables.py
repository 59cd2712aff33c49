"""Read the records of question files and tables for `lit-hour import`, a batch at a time.

`iter_records` reads .json, .jsonl, .csv, .tsv and .parquet; the last also from a URL of fsspec such
as hf://datasets/NAME/data/train-*.parquet. A table may have the columns of this project, of
VideoMarathon (`question_type`, `URL`) or of NExT-QA (`a0` to `a4`, the answer as their number).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO

from lit_hour.data.questions.loading import JSON_SUFFIXES, load_records
from lit_hour.errors import QuestionError, ShardError
from lit_hour.io.file_kinds import HEAD_BYTES, describe_wrong_kind
from lit_hour.io.remote import RemoteStore
from lit_hour.io.urls import file_path, is_url, redact
from lit_hour.taxonomy import TASKS

# In a cell of a table: "a pan | a plate", "62-75.5; 80-91".
OPTION_SEPARATOR, INTERVAL_SEPARATOR = "|", ";"
TABLE_SEPARATORS = {".csv": ",", ".tsv": "\t"}
ROWS_PER_BATCH = 1024
_NUMBERED_OPTION = re.compile(r"(?:a|option_?)(\d+)")

Row = dict[str, Any]


def expand_files(names: Sequence[str]) -> list[str]:
    """Return the files and URLs that the names and patterns stand for, in order.

    Raises:
        QuestionError: a pattern matches nothing.
        ShardError, ConfigError: a URL cannot be read; see `RemoteStore`.
    """
    files: list[str] = []
    for name in names:
        if is_url(name):
            found = RemoteStore().glob(name) if has_magic(file_path(name)) else [name]
        else:
            found = [name] if Path(name).exists() else sorted(glob(name))
        if not found:
            shown = redact(name) if is_url(name) else name
            raise QuestionError(f"There is no file {shown}. Give question files, or their URLs.")
        files += found
    return files


def iter_records(name: str) -> Iterator[tuple[str, Row | QuestionError]]:
    """Yield the location and the content of each record, or why it cannot be read.

    Raises:
        QuestionError: the file cannot be read, or is of another kind.
        ShardError, ConfigError: a URL cannot be read; see `RemoteStore`.
    """
    suffix = Path(file_path(name)).suffix.lower()
    if suffix == ".parquet":
        yield from _iter_parquet(name)
    elif is_url(name):
        raise QuestionError(f"{redact(name)} is not a .parquet file. Download it first.")
    elif suffix in TABLE_SEPARATORS:
        yield from _iter_table(Path(name), TABLE_SEPARATORS[suffix])
    elif suffix in JSON_SUFFIXES:
        for number, record in enumerate(load_records(Path(name)), start=1):
            yield f"{name}: record {number}", record
    else:
        raise QuestionError(
            f"{name} must be a .json, .jsonl, .csv, .tsv or .parquet file. Convert it."
        )


def unify_row(row: Row, location: str) -> Row:
    """Return the record of this project that a row of a table stands for.

    Raises:
        QuestionError: a cell has no meaning: an answer that numbers no option, no interval.
    """
    record = {key: value for key, value in row.items() if value is not None and value != ""}
    numbered = sorted(
        (int(match[1]), key) for key in record if (match := _NUMBERED_OPTION.fullmatch(key))
    )
    if len(numbered) > 1 and "options" not in record:
        record["options"] = [str(record.pop(key)) for _, key in numbered]
        record["answer"] = _numbered_answer(record, [key for _, key in numbered], row, location)
    if isinstance(record.get("options"), str):
        record["options"] = record["options"].split(OPTION_SEPARATOR)
    if isinstance(record.get("evidence"), str):
        record["evidence"] = _parse_evidence(record["evidence"], location)
    return record


def split_question_type(question_type: str) -> tuple[str, str]:
    """Return the task and the format of a value such as "temporality/temporal_order/mc".

    Returns:
        A key of the taxonomy, or "" for an unknown task; and "multiple_choice", "open_ended" or "".
    """
    parts = [re.sub(r"[\s-]+", "_", part.strip().lower()) for part in question_type.split("/")]
    formats = {"mc": "multiple_choice", "mcq": "multiple_choice", "oe": "open_ended"}
    question_format = formats.get(parts[-1], "")
    if question_format:
        parts = parts[:-1]
    named = [task.key for task in TASKS if task.key.split("/")[-len(parts) :] == parts]
    return (named[0] if parts and len(named) == 1 else ""), question_format


def _numbered_answer(record: Row, columns: Sequence[str], row: Row, location: str) -> str:
    """Return the option that an answer names by its number, as `a0` is 0, or by its text."""
    options, answer = record["options"], str(record.get("answer", "")).strip()
    numbers = [re.sub(r"\D", "", column) for column in columns]
    if answer in numbers:
        return str(options[numbers.index(answer)])
    if answer in options:
        return answer
    raise QuestionError(
        f"{location}: key 'answer': {row.get('answer')!r} is none of {', '.join(numbers)}, the"
        f" numbers of the columns {columns[0]} to {columns[-1]}."
    )


def _iter_table(file: Path, separator: str) -> Iterator[tuple[str, Row | QuestionError]]:
    try:
        with file.open("rb") as stream:
            if kind := describe_wrong_kind(stream.read(HEAD_BYTES)):
                raise QuestionError(f"{file} {kind}")
        with file.open(encoding="utf-8-sig", newline="") as table:
            rows = csv.DictReader(table, delimiter=separator, strict=True)
            for number, row in enumerate(rows, start=1):
                location = f"{file}: row {number}"
                if None in row or None in row.values():
                    yield (
                        location,
                        QuestionError(f"{location} must have as many cells as there are columns."),
                    )
                    continue
                yield location, {key: cell for key, cell in row.items() if cell.strip()}
    except OSError as error:
        raise QuestionError(f"Cannot read {file}: {error.strerror}. Give a file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise QuestionError(f"{file} cannot be read as a table: {error}.") from error


def _parse_evidence(cell: str, location: str) -> list[list[float]]:
    try:
        return [
            [float(seconds) for seconds in interval.split("-")]
            for interval in cell.split(INTERVAL_SEPARATOR)
        ]
    except ValueError as error:
        raise QuestionError(
            f"{location}: evidence must be intervals in seconds, such as 62-75.5; 80-91, not"
            f" {cell!r}."
        ) from error


def _iter_parquet(name: str) -> Iterator[tuple[str, Row | QuestionError]]:
    """Yield the rows of a parquet file; a batch of rows is in memory at a time."""
    import pyarrow.parquet

    number, shown = 0, redact(name) if is_url(name) else name
    with _open_binary(name) as stream:
        head = stream.read(HEAD_BYTES)
        if not head.startswith(b"PAR1"):
            kind = describe_wrong_kind(head) or "is not a parquet file. Download the file again."
            raise QuestionError(f"{shown} {kind}")
        try:
            table = pyarrow.parquet.ParquetFile(stream, pre_buffer=False)
            for batch in table.iter_batches(ROWS_PER_BATCH, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{shown}: row {number}", _plain_values(row)
        except ShardError:  # of a URL that cannot be read to its end
            raise
        except (OSError, ValueError) as error:  # the bases of pyarrow's errors
            raise QuestionError(f"{shown} is not a readable parquet file: {error}.") from error


def _plain_values(row: Row) -> Row:
    """Return a row with lists in place of JSON texts of conversations."""
    for key in ("conversations", "messages"):
        if isinstance(row.get(key), str):
            try:
                row[key] = json.loads(row[key])
            except ValueError:  # reported when the record is parsed
                continue
    return row


@contextmanager
def _open_binary(name: str) -> Iterator[BinaryIO]:
    """Open a local file or a URL; an error while it is opened is one of the question file."""
    try:
        opened = RemoteStore().open(name) if is_url(name) else Path(name).open("rb")  # noqa: SIM115
    except OSError as error:
        raise QuestionError(f"Cannot read {name}: {error.strerror}. Give a file.") from error
    with opened as stream:
        yield stream
