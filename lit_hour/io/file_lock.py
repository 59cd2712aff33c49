"""Locks on folders that several processes fill.

The processes may be two terminals, or the ranks of a run.

They are `filelock.FileLock`s on a file inside the folder. A process that dies releases its locks,
and a forked child does not inherit them.
"""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

LOCK_NAME = ".lock"


def dir_lock(folder: Path, rank: int | None = None) -> BaseFileLock:
    """Create a folder if it is missing, and return its lock, which is not acquired yet.

    Args:
        folder: to lock.
        rank: of a run; each rank has a lock of its own, so that all ranks can use the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / (LOCK_NAME if rank is None else f"{LOCK_NAME}.rank{rank}"))


def rank_locks(folder: Path) -> list[BaseFileLock]:
    """Return the locks of all ranks that have used a folder."""
    return [FileLock(file) for file in sorted(folder.glob(f"{LOCK_NAME}.rank*"))]


def is_locked(lock: BaseFileLock) -> bool:
    """Return whether a process holds a lock at this moment."""
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
