"""A published file in, what it holds out: JSON, JSON lines or parquet, as it is."""

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
    """What a file holds: a list of records, or whatever its JSON is; with the SHA-256 of its bytes."""

    path: Path
    content: Any
    sha256: str


def read_file(file: Path) -> BenchmarkFile:
    """Read a `.json`, `.jsonl` or `.parquet`; parquet needs pyarrow.

    Raises:
        QuestionError: the file is missing, damaged, or of another kind.
    """
    readers = {".json": _read_json, ".jsonl": _read_lines, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise QuestionError(f"{file}: a benchmark's file is one of {', '.join(readers)}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise QuestionError(f"{file} cannot be read ({error.strerror})") from error
    return BenchmarkFile(
        file, readers[file.suffix](content, file), hashlib.sha256(content).hexdigest()
    )


def file_digests(contents: Sequence[BenchmarkFile]) -> dict[str, str]:
    """The digest of each file under its name, or under its whole path where files share a name."""
    names = Counter(content.path.name for content in contents)
    return {
        content.path.name if names[content.path.name] == 1 else str(content.path): content.sha256
        for content in contents
    }


def _read_json(content: bytes, file: Path) -> Any:
    return _parse(content, str(file))


def _read_lines(content: bytes, file: Path) -> list[Any]:
    lines = enumerate(content.split(b"\n"), start=1)
    return [_parse(line, f"{file}: line {number}") for number, line in lines if line.strip()]


def _parse(content: bytes, place: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise QuestionError(f"{place} is not JSON: {error}") from error


def _read_parquet(content: bytes, file: Path) -> list[Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise QuestionError(
            f"{file}: parquet is read by pyarrow, which is not installed: pip install pyarrow"
        ) from error
    try:
        return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are kinds of these
        raise QuestionError(f"{file} is no parquet file that can be read: {error}") from error
