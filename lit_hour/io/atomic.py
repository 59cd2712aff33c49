"""A file that is there as a whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

UNFINISHED_SUFFIX = ".unfinished"


def unfinished_path(path: Path) -> Path:
    """A name of this process's own beside `path`: what a killed process still holds can never take the place of `path`."""
    return path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED_SUFFIX}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write a file at, by whatever means, that gets its name `path` only when all of it is on the disk."""
    unfinished = unfinished_path(path)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[TextIO]:
    """A text file to write that appears under its name only when all of it is on the disk."""
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        yield file


def write_whole(path: Path, content: str) -> None:
    """Write a text file in one go."""
    with whole(path) as file:
        file.write(content)
