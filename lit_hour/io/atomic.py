"""Atomic writes: a file or folder appears when it is complete and on disk, or not at all.

It is written under a temporary name beside its path, flushed, and renamed. `atomic_path`,
`atomic_write` and `atomic_dir` are the entry points.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

TEMP_SUFFIX = ".unfinished"


def temp_path(path: Path) -> Path:
    """Return a temporary name beside `path` for this process.

    It contains the process id: a file that a killed process may still write to is never renamed.
    """
    return path.with_name(f"{path.name}.{os.getpid()}{TEMP_SUFFIX}")


def shared_temp_path(path: Path) -> Path:
    """Return a temporary name beside `path` that is the same for all ranks of a run."""
    return path.with_name(f"{path.name}{TEMP_SUFFIX}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the temporary path of a file; it is flushed and renamed at the end of the block."""
    temp = temp_path(path)
    try:
        yield temp
        flush(temp)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Open a text file for an atomic write."""
    with atomic_path(path) as temp, temp.open("w", encoding="utf-8") as stream:
        yield stream


def atomic_write_text(path: Path, content: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as stream:
        stream.write(content)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` at the end of the block.

    No other process may write the same folder: what a killed one has left is removed.
    """
    temp = shared_temp_path(path)
    remove(temp)
    temp.mkdir(parents=True)
    try:
        yield temp
        remove(path)
        temp.rename(path)
    finally:
        remove(temp)


def remove_temp_files(folder: Path) -> list[Path]:
    """Remove what killed processes have left in a folder, and return it.

    No other process may be writing there now.
    """
    left = sorted(folder.glob(f"*{TEMP_SUFFIX}"))
    for path in left:
        remove(path)
    return left


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
