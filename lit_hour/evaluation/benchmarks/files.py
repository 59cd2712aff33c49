"""Read a benchmark's published files: JSON, JSON lines, parquet or lines of text."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_hour.errors import QuestionError


@dataclass(frozen=True)
class BenchmarkFile:
    """A file that was read: a list of records, or any other JSON value, with its SHA-256."""

    path: Path
    content: Any
    sha256: str


def read_file(path: Path) -> BenchmarkFile:
    """Read a `.json`, `.jsonl`, `.parquet` or `.txt` file; parquet needs pyarrow.

    A line of text becomes a record with the column "line".

    Raises:
        QuestionError: the file is missing, damaged, or of another kind.
    """
    readers = {
        ".json": _parse_json,
        ".jsonl": _parse_json_lines,
        ".parquet": _parse_parquet,
        ".txt": _parse_text,
    }
    if path.suffix not in readers:
        raise QuestionError(f"{path}: the file of a benchmark must be one of {', '.join(readers)}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise QuestionError(f"{path} cannot be read ({error.strerror}).") from error
    return BenchmarkFile(path, readers[path.suffix](data, path), hashlib.sha256(data).hexdigest())


def file_digests(files: Sequence[BenchmarkFile]) -> dict[str, str]:
    """Return the SHA-256 of each file under its name, or under its path if files share a name."""
    count = Counter(file.path.name for file in files)
    return {
        file.path.name if count[file.path.name] == 1 else str(file.path): file.sha256
        for file in files
    }


def _parse_json(data: bytes, path: Path) -> Any:
    return _load_json(data, str(path))


def _parse_json_lines(data: bytes, path: Path) -> list[Any]:
    lines = enumerate(data.split(b"\n"), start=1)
    return [_load_json(line, f"{path}: line {number}") for number, line in lines if line.strip()]


def _parse_text(data: bytes, path: Path) -> list[dict[str, str]]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise QuestionError(f"{path} is not text in UTF-8: {error}") from error
    return [{"line": line} for line in lines if line.strip()]


def _load_json(data: bytes, location: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # decoding errors are ValueErrors
        raise QuestionError(f"{location} is not valid JSON: {error}") from error


def _parse_parquet(data: bytes, path: Path) -> list[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise QuestionError(
            f"{path}: reading parquet needs pyarrow. Install it with: pip install pyarrow"
        ) from error
    try:
        return pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    except (OSError, ValueError) as error:  # the bases of pyarrow's errors
        raise QuestionError(f"{path} is not a readable parquet file: {error}") from error
