"""LRU cache of video memories: up to a byte budget in RAM, the rest spilled to disk.

Entry point: `MemoryCache`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from uuid import uuid4

from lit_hour.errors import MemoryFileError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import MEMORY_SUFFIX, VideoMemory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.io.atomic import remove_temp_files

log = logging.getLogger(__name__)


@dataclass
class CacheEntry:
    """One memory of the cache.

    Attributes:
        num_bytes: size in RAM; of an entry that was never in RAM, the size of its file.
        memory: None while it is on disk only.
        is_on_disk: the file is up to date.
        is_removed: `remove` was called while another thread waited for `lock`.
        is_evicting: a thread is writing it to disk, to drop it from RAM afterwards.
        num_leases: users of this entry. A leased entry is pinned: it is never evicted.
        lock: held during disk I/O and changes of `memory`. A thread that holds the lock of the
            cache never waits for this one.
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
        """True if it counts against the budget: it is in RAM and stays there, or is leased."""
        return self.num_leases > 0 or (self.memory is not None and not self.is_evicting)


class MemoryCache:
    """Thread-safe LRU cache of memories by key.

    Leased memories stay in RAM even above the budget. No memory is lost: one that cannot be
    written to disk stays in RAM, with a warning in the log. Files that an earlier process left in
    the folder are part of the cache.
    """

    def __init__(self, predictor: VideoPredictor, folder: Path, budget_bytes: int) -> None:
        """Open a folder, which must belong to this process alone.

        Args:
            predictor: must produce the same memories as the one that wrote the files.
            folder: of the spilled memories.
            budget_bytes: limit on the sum of `VideoMemory.num_bytes` in RAM.
        """
        self._predictor, self._folder, self._budget_bytes = predictor, folder, budget_bytes
        self._lock = Lock()  # of the table and of the counters of its entries
        remove_temp_files(folder)  # of a killed process
        files = sorted(folder.glob(f"*{MEMORY_SUFFIX}"), key=lambda file: file.stat().st_mtime)
        self._entries = OrderedDict(
            (file.stem, CacheEntry(file.stat().st_size, is_on_disk=True)) for file in files
        )

    @property
    def keys(self) -> list[str]:
        """All keys, the least recently used first."""
        with self._lock:
            return list(self._entries)

    @property
    def num_bytes(self) -> int:
        """Bytes of the resident memories."""
        with self._lock:
            return self._num_resident_bytes()

    def size_bytes(self, key: str) -> int:
        """Return the size of a memory in RAM, or of its file if an earlier process wrote it.

        Raises:
            MemoryFileError: there is no such key.
        """
        with self._lock:
            if key not in self._entries:
                raise _unknown_key(key)
            return self._entries[key].num_bytes

    def put(self, memory: VideoMemory) -> str:
        """Add a memory and return its key."""
        key = uuid4().hex
        with self._lock:
            self._entries[key] = CacheEntry(memory.num_bytes, memory)
        self._evict()
        return key

    def replace(self, key: str, memory: VideoMemory) -> None:
        """Replace the memory of a key, for example by an extended one.

        Raises:
            MemoryFileError: there is no such key.
        """
        with self._pin(key) as entry, entry.lock:
            if entry.is_removed:
                raise _unknown_key(key)
            entry.memory, entry.num_bytes, entry.is_on_disk = memory, memory.num_bytes, False
        self._evict()

    @contextmanager
    def lease(self, key: str) -> Iterator[VideoMemory]:
        """Pin a memory in RAM for the duration of the block; it is read from disk if necessary.

        Raises:
            MemoryFileError: there is no such key, or its file is corrupt.
        """
        with self._pin(key) as entry:
            yield self._load(key, entry)
        self._evict()

    @asynccontextmanager
    async def lease_async(self, key: str) -> AsyncIterator[VideoMemory]:
        """Do the same as `lease` without blocking the event loop: disk I/O runs in threads.

        A task that is cancelled while the file is read drops its lease at once. The thread then
        evicts the memory itself if it does not fit.

        Raises:
            MemoryFileError: there is no such key, or its file is corrupt.
        """
        try:
            with self._pin(key) as entry:
                yield await asyncio.to_thread(self._load, key, entry)
        finally:
            asyncio.get_running_loop().run_in_executor(None, self._evict)

    def remove(self, key: str) -> None:
        """Delete a memory and its file; leases of it stay valid.

        Raises:
            MemoryFileError: there is no such key.
        """
        with self._pin(key) as entry, entry.lock:
            if entry.is_removed:
                raise _unknown_key(key)
            entry.is_removed, entry.memory = True, None
            self._file(key).unlink(missing_ok=True)
            with self._lock:
                del self._entries[key]

    def save(self) -> None:
        """Write all memories to disk that are not there yet; call it before the process ends.

        Raises:
            MemoryFileError: the disk is full, or cannot be written.
        """
        with self._lock:
            entries = list(self._entries.items())
        for key, entry in entries:
            with entry.lock:
                self._save(key, entry)

    @contextmanager
    def _pin(self, key: str) -> Iterator[CacheEntry]:
        with self._lock:
            if key not in self._entries:
                raise _unknown_key(key)
            entry = self._entries[key]
            entry.num_leases += 1
            self._entries.move_to_end(key)
        try:
            yield entry
        finally:
            with self._lock:
                entry.num_leases -= 1

    def _load(self, key: str, entry: CacheEntry) -> VideoMemory:
        self._evict()  # first, so that RAM never holds both
        with entry.lock:
            if entry.is_removed:
                raise _unknown_key(key)
            if entry.memory is None:
                entry.memory = load_memory(self._predictor, self._file(key))
                entry.num_bytes = entry.memory.num_bytes
            memory = entry.memory
        if entry.num_leases == 0:  # cancelled meanwhile, see `lease_async`
            self._evict()
        return memory

    def _save(self, key: str, entry: CacheEntry) -> None:
        """Write a memory to disk if necessary; the caller holds its lock."""
        if entry.memory is not None and not entry.is_on_disk:
            save_memory(self._predictor, entry.memory, self._file(key))
            entry.is_on_disk = True

    def _evict(self) -> None:
        """Spill memories to disk until the rest is within the budget."""
        while (victim := self._pick_victim()) is not None:
            key, entry = victim
            try:
                with entry.lock:
                    self._save(key, entry)
                    with self._lock:
                        if entry.num_leases == 0:  # not leased again meanwhile
                            entry.memory = None
            except MemoryFileError as error:
                log.warning(
                    "%s Until then, memories take more RAM than serving.memory_cache_gb.", error
                )
                return
            finally:
                with self._lock:
                    entry.is_evicting = False

    def _pick_victim(self) -> tuple[str, CacheEntry] | None:
        """Mark the least recently used entry that can be evicted, or return None if all fits."""
        with self._lock:
            if self._num_resident_bytes() > self._budget_bytes:
                for key, entry in self._entries.items():
                    if entry.is_resident and not entry.num_leases:
                        entry.is_evicting = True
                        return key, entry
        return None

    def _num_resident_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self._entries.values() if entry.is_resident)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}{MEMORY_SUFFIX}"


def _unknown_key(key: str) -> MemoryFileError:
    return MemoryFileError(f"There is no memory {key!r}. It was never put here, or was removed.")
