"""A file that is there as a whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

TEMP_SUFFIX = ".unfinished"


def temp_path(path: Path) -> Path:
    """A name of this process's own beside `path`: what a killed process still holds can never take the place of `path`."""
    return path.with_name(f"{path.name}.{os.getpid()}{TEMP_SUFFIX}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A place to write a file at, by whatever means, that gets its name `path` only when all of it is on the disk."""
    unfinished = temp_path(path)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """A text file to write that appears under its name only when all of it is on the disk."""
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        yield file


def atomic_write_text(path: Path, content: str) -> None:
    """Write a text file in one go."""
    with atomic_write(path) as file:
        file.write(content)
