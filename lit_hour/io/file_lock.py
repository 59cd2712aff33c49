"""A folder that one process at a time may fill, whatever starts them: two terminals, or the ranks of a run."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Make the folder if it is not there, and hold it; another process that wants it waits, and then finds it filled.

    Those that hold it shared do not wait for each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """Make the folder if it is not there, and hold it unless another process does; says whether it is held now."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_held(folder: Path, even_shared: bool = False) -> bool:
    """Whether a process holds the folder at this moment, for itself alone or even shared."""
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if even_shared else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
