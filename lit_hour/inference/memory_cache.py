"""Memories of several videos, of which as many as a budget allows are ready to be asked and the others lie on disk."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from uuid import uuid4

from lit_hour.errors import MemoryFileError
from lit_hour.inference.inputs import MEMORY_SUFFIX
from lit_hour.inference.predictor import Session
from lit_hour.inference.video_memory import Memory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.io.atomic import UNFINISHED_SUFFIX

log = logging.getLogger("lit_hour")


@dataclass
class Place:
    """Where a memory stands.

    Attributes:
        num_bytes: that it takes when it is ready; of one that was never ready here, its file's.
        memory: when it is ready.
        is_saved: whether the file has all of it.
        is_removed: whether it was thrown away while somebody waited for it.
        is_leaving: whether it goes once it is saved, unless somebody comes who needs it.
        num_users: who need it now, or will when they have the lock.
        lock: held while it is read from disk, written to it, or put here; and never asked for by who holds the shelf's.
    """

    num_bytes: int
    memory: Memory | None = None
    is_saved: bool = False
    is_removed: bool = False
    is_leaving: bool = False
    num_users: int = 0
    lock: Lock = field(default_factory=Lock)

    @property
    def is_there(self) -> bool:
        """Whether it is ready and stays, or is about to be."""
        return self.num_users > 0 or (self.memory is not None and not self.is_leaving)


class MemoryShelf:
    """Holds memories by their keys, for any number of threads of one process, to which the folder belongs.

    A memory that is in use stays ready, even where those in use are more than the budget. None is lost: where it cannot be
    written to disk, it stays and the log says so. Those that an earlier process has saved in the folder are there again.
    """

    def __init__(self, session: Session, folder: Path, budget_bytes: int) -> None:
        """Args: budget_bytes: what the memories that are ready may take, as `Memory.num_bytes` counts it."""
        self._session, self._folder, self._budget_bytes = session, folder, budget_bytes
        self._table = Lock()
        for unfinished in folder.glob(f"*{UNFINISHED_SUFFIX}"):  # of a process that was killed
            unfinished.unlink()
        files = sorted(folder.glob(f"*{MEMORY_SUFFIX}"), key=lambda file: file.stat().st_mtime)
        self._places = OrderedDict(
            (file.stem, Place(file.stat().st_size, is_saved=True)) for file in files
        )

    @property
    def keys(self) -> list[str]:
        """Of all memories, that longest unused first."""
        with self._table:
            return list(self._places)

    @property
    def num_bytes(self) -> int:
        """What the memories take that are ready, or about to be."""
        with self._table:
            return self._num_bytes()

    def put(self, memory: Memory) -> str:
        """Add a memory; the key by which it is found again."""
        key = uuid4().hex
        with self._table:
            self._places[key] = Place(memory.num_bytes, memory)
        self._make_room()
        return key

    def replace(self, key: str, memory: Memory) -> None:
        """Keep this memory in the place of another, such as one that has grown.

        Raises:
            MemoryFileError: there is no such key.
        """
        with self._in_use(key) as place, place.lock:
            if place.is_removed:
                raise _unknown(key)
            place.memory, place.num_bytes, place.is_saved = memory, memory.num_bytes, False
        self._make_room()

    @contextmanager
    def borrow(self, key: str) -> Iterator[Memory]:
        """Use a memory, which is read from disk if it is not ready, and stays ready meanwhile.

        Raises:
            MemoryFileError: there is no such key, or its file is damaged.
        """
        with self._in_use(key) as place:
            self._make_room()  # before it is read
            yield self._get(key, place)
        self._make_room()

    def remove(self, key: str) -> None:
        """Throw a memory away, its file too; who uses it may go on.

        Raises:
            MemoryFileError: there is no such key.
        """
        with self._in_use(key) as place, place.lock:
            if place.is_removed:
                raise _unknown(key)
            place.is_removed, place.memory = True, None
            self._file(key).unlink(missing_ok=True)
            with self._table:
                del self._places[key]

    def save(self) -> None:
        """Write all to disk that is not there yet, before the process ends.

        Raises:
            MemoryFileError: the disk is full, or cannot be written.
        """
        with self._table:
            places = list(self._places.items())
        for key, place in places:
            with place.lock:
                self._save(key, place)

    @contextmanager
    def _in_use(self, key: str) -> Iterator[Place]:
        with self._table:
            if key not in self._places:
                raise _unknown(key)
            place = self._places[key]
            place.num_users += 1
            self._places.move_to_end(key)
        try:
            yield place
        finally:
            with self._table:
                place.num_users -= 1

    def _get(self, key: str, place: Place) -> Memory:
        with place.lock:
            if place.is_removed:
                raise _unknown(key)
            if place.memory is None:
                place.memory = load_memory(self._session, self._file(key))
                place.num_bytes = place.memory.num_bytes
            return place.memory

    def _save(self, key: str, place: Place) -> None:
        """Write a memory to disk if it has to be; its lock is held."""
        if place.memory is not None and not place.is_saved:
            save_memory(self._session, place.memory, self._file(key))
            place.is_saved = True

    def _make_room(self) -> None:
        """Let go of memories that nobody uses until the rest is within the budget."""
        while (found := self._longest_unused()) is not None:
            key, place = found
            try:
                with place.lock:
                    self._save(key, place)
                    with self._table:
                        if place.num_users == 0:  # nobody came meanwhile
                            place.memory = None
            except MemoryFileError as error:
                log.warning(
                    "%s; until then the memories take more than serving.memory_gigabytes", error
                )
                return
            finally:
                with self._table:
                    place.is_leaving = False

    def _longest_unused(self) -> tuple[str, Place] | None:
        """A memory that has to go, and is leaving from now on; None if none has to, or can."""
        with self._table:
            if self._num_bytes() > self._budget_bytes:
                for key, place in self._places.items():
                    if place.memory is not None and not place.num_users and not place.is_leaving:
                        place.is_leaving = True
                        return key, place
        return None

    def _num_bytes(self) -> int:
        return sum(place.num_bytes for place in self._places.values() if place.is_there)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}{MEMORY_SUFFIX}"


def _unknown(key: str) -> MemoryFileError:
    return MemoryFileError(f"no memory {key!r}: it was never made here, or was removed")
