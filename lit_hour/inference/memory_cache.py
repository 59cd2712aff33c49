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
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.io.atomic import UNFINISHED_SUFFIX

log = logging.getLogger("lit_hour")


@dataclass
class CacheEntry:
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
    memory: VideoMemory | None = None
    is_on_disk: bool = False
    is_removed: bool = False
    is_evicting: bool = False
    num_leases: int = 0
    lock: Lock = field(default_factory=Lock)

    @property
    def is_resident(self) -> bool:
        """Whether it is ready and stays, or is about to be."""
        return self.num_leases > 0 or (self.memory is not None and not self.is_evicting)


class MemoryCache:
    """Holds memories by their keys, for any number of threads of one process, to which the folder belongs.

    A memory that is in use stays ready, even where those in use are more than the budget. None is lost: where it cannot be
    written to disk, it stays and the log says so. Those that an earlier process has saved in the folder are there again.
    """

    def __init__(self, predictor: VideoPredictor, folder: Path, budget_bytes: int) -> None:
        """Args: budget_bytes: what the memories that are ready may take, as `Memory.num_bytes` counts it."""
        self._predictor, self._folder, self._budget_bytes = predictor, folder, budget_bytes
        self._lock = Lock()
        for unfinished in folder.glob(f"*{UNFINISHED_SUFFIX}"):  # of a process that was killed
            unfinished.unlink()
        files = sorted(folder.glob(f"*{MEMORY_SUFFIX}"), key=lambda file: file.stat().st_mtime)
        self._entries = OrderedDict(
            (file.stem, CacheEntry(file.stat().st_size, is_on_disk=True)) for file in files
        )

    @property
    def keys(self) -> list[str]:
        """Of all memories, that longest unused first."""
        with self._lock:
            return list(self._entries)

    @property
    def num_bytes(self) -> int:
        """What the memories take that are ready, or about to be."""
        with self._lock:
            return self._num_bytes()

    def put(self, memory: VideoMemory) -> str:
        """Add a memory; the key by which it is found again."""
        key = uuid4().hex
        with self._lock:
            self._entries[key] = CacheEntry(memory.num_bytes, memory)
        self._evict()
        return key

    def replace(self, key: str, memory: VideoMemory) -> None:
        """Keep this memory in the place of another, such as one that has grown.

        Raises:
            MemoryFileError: there is no such key.
        """
        with self._pin(key) as place, place.lock:
            if place.is_removed:
                raise _unknown_key(key)
            place.memory, place.num_bytes, place.is_on_disk = memory, memory.num_bytes, False
        self._evict()

    @contextmanager
    def lease(self, key: str) -> Iterator[VideoMemory]:
        """Use a memory, which is read from disk if it is not ready, and stays ready meanwhile.

        Raises:
            MemoryFileError: there is no such key, or its file is damaged.
        """
        with self._pin(key) as place:
            self._evict()  # before it is read
            yield self._load(key, place)
        self._evict()

    def remove(self, key: str) -> None:
        """Throw a memory away, its file too; who uses it may go on.

        Raises:
            MemoryFileError: there is no such key.
        """
        with self._pin(key) as place, place.lock:
            if place.is_removed:
                raise _unknown_key(key)
            place.is_removed, place.memory = True, None
            self._file(key).unlink(missing_ok=True)
            with self._lock:
                del self._entries[key]

    def save(self) -> None:
        """Write all to disk that is not there yet, before the process ends.

        Raises:
            MemoryFileError: the disk is full, or cannot be written.
        """
        with self._lock:
            places = list(self._entries.items())
        for key, place in places:
            with place.lock:
                self._save(key, place)

    @contextmanager
    def _pin(self, key: str) -> Iterator[CacheEntry]:
        with self._lock:
            if key not in self._entries:
                raise _unknown_key(key)
            place = self._entries[key]
            place.num_leases += 1
            self._entries.move_to_end(key)
        try:
            yield place
        finally:
            with self._lock:
                place.num_leases -= 1

    def _load(self, key: str, place: CacheEntry) -> VideoMemory:
        with place.lock:
            if place.is_removed:
                raise _unknown_key(key)
            if place.memory is None:
                place.memory = load_memory(self._predictor, self._file(key))
                place.num_bytes = place.memory.num_bytes
            return place.memory

    def _save(self, key: str, place: CacheEntry) -> None:
        """Write a memory to disk if it has to be; its lock is held."""
        if place.memory is not None and not place.is_on_disk:
            save_memory(self._predictor, place.memory, self._file(key))
            place.is_on_disk = True

    def _evict(self) -> None:
        """Let go of memories that nobody uses until the rest is within the budget."""
        while (found := self._pick_victim()) is not None:
            key, place = found
            try:
                with place.lock:
                    self._save(key, place)
                    with self._lock:
                        if place.num_leases == 0:  # nobody came meanwhile
                            place.memory = None
            except MemoryFileError as error:
                log.warning(
                    "%s; until then the memories take more than serving.memory_cache_gb", error
                )
                return
            finally:
                with self._lock:
                    place.is_evicting = False

    def _pick_victim(self) -> tuple[str, CacheEntry] | None:
        """A memory that has to go, and is leaving from now on; None if none has to, or can."""
        with self._lock:
            if self._num_bytes() > self._budget_bytes:
                for key, place in self._entries.items():
                    if place.memory is not None and not place.num_leases and not place.is_evicting:
                        place.is_evicting = True
                        return key, place
        return None

    def _num_bytes(self) -> int:
        return sum(place.num_bytes for place in self._entries.values() if place.is_resident)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}{MEMORY_SUFFIX}"


def _unknown_key(key: str) -> MemoryFileError:
    return MemoryFileError(f"no memory {key!r}: it was never made here, or was removed")
