"""Memory that decoded frames are written to again and again.

New memory costs a page fault for every 4 KB, in a worker and once more in its rank: about as much
as decoding a JPEG. `SharedArena` is the allocator; `empty_shared` allocates from the active one.
"""

from __future__ import annotations

import itertools
import logging
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import FileIO
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

MAX_BLOCKS = 1024
TABLE_BYTES = 16 * MAX_BLOCKS  # size and offset of each block, 64-bit

log = logging.getLogger(__name__)

ArenaId = tuple[int, int]  # process that created it, and a number


class SharedArena:
    """Shared memory from which a worker allocates blocks, and in which its rank frees them.

    A block is in use until the last tensor with its storage is gone, in the process that has it: a
    worker has a block until it sends it (`send`), its rank from then on (`receive`). Blocks are
    allocated at the lowest free offset, and memory is taken from the system when a block is first
    written. It stays taken, at most `num_bytes`, until `trim` or the end of the arena.

    The memory has no name and does not count as `/dev/shm`: the system frees it with the last
    process that uses it, however that ends.

    Attributes:
        id: unique among all processes.
        num_bytes: size of all blocks together.
    """

    def __init__(
        self, num_bytes: int, arena_id: ArenaId | None = None, descriptor: int | None = None
    ) -> None:
        """Create an arena, or map another process's arena by its id and its open file."""
        self.num_bytes = num_bytes
        self.id = arena_id or (os.getpid(), next(_numbers))
        total = TABLE_BYTES + num_bytes
        self._file = FileIO(os.memfd_create("lit_hour") if descriptor is None else descriptor, "r+")
        if descriptor is None:
            os.ftruncate(self._file.fileno(), total)  # takes no memory yet
        self._pages = mmap.mmap(self._file.fileno(), total)
        table = memoryview(self._pages)[:TABLE_BYTES].cast("q")
        self._sizes, self._offsets = table[:MAX_BLOCKS], table[MAX_BLOCKS:]  # size 0: no block
        self._unsent: dict[int, tuple[int, Callable[[], Any]]] = {}  # by address
        self._lock = threading.Lock()
        _arenas[self.id] = self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # for workers that are spawned; forked ones inherit the mapping
        return _rebuild_arena, (self.num_bytes, self.id, DupFd(self._file.fileno()))

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Return an uninitialized tensor `shape` in a new block; None if nothing is free."""
        num_bytes = math.prod(shape) * dtype.itemsize
        size = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        with self._lock:
            sizes = self._sizes.tolist()
            start = next((gap for gap, length in self._gaps() if length >= size), None)
            if not size or start is None or 0 not in sizes:
                return None
            block = sizes.index(0)
            self._offsets[block], self._sizes[block] = start, size
        tensor, forget = self._open(block, num_bytes, dtype)
        self._unsent[tensor.data_ptr()] = block, forget
        return tensor.view(shape)

    def send(self, tensor: Tensor) -> int | None:
        """Leave the block of a tensor, of any shape, to the process that will receive it.

        Returns:
            The block; None if the tensor is not exactly the unsent content of one.
        """
        is_complete = tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()
        if not is_complete or tensor.data_ptr() not in self._unsent:
            return None
        block, forget = self._unsent.pop(tensor.data_ptr())
        forget()
        return block

    def receive(self, block: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the tensor `shape` of a block that another process has sent."""
        tensor, _ = self._open(block, math.prod(shape) * dtype.itemsize, dtype)
        return tensor.view(shape)

    def trim(self) -> None:
        """Return the memory outside of blocks to the system, while nothing is allocated."""
        for start, length in self._gaps():
            if length:
                with suppress(OSError):  # a kernel without it
                    self._pages.madvise(mmap.MADV_REMOVE, TABLE_BYTES + start, length)

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length of what lies between the blocks, and after the last one."""
        end = 0
        used = [(self._offsets[block], size) for block, size in enumerate(self._sizes) if size]
        for offset, size in [*sorted(used), (self.num_bytes, 0)]:
            yield end, offset - end
            end = offset + size

    def _open(
        self, block: int, num_bytes: int, dtype: torch.dtype
    ) -> tuple[Tensor, Callable[[], Any]]:
        """Return a tensor that frees its block at its end, and what to call to prevent that."""
        start = TABLE_BYTES + self._offsets[block]
        content = memoryview(self._pages)[start : start + num_bytes]
        tensor = torch.frombuffer(content, dtype=dtype)  # (numbers,); its storage holds `content`
        free = weakref.finalize(content, self._free, block, tensor.data_ptr(), os.getpid())
        free.atexit = False
        return tensor, free.detach

    def _free(self, block: int, address: int, pid: int) -> None:
        if os.getpid() == pid:  # a forked process has copies of its parent's tensors
            self._unsent.pop(address, None)
            self._sizes[block] = 0


_numbers = itertools.count()
_arenas: weakref.WeakValueDictionary[ArenaId, SharedArena] = weakref.WeakValueDictionary()
_active: ContextVar[SharedArena | None] = ContextVar("active_arena", default=None)


def _rebuild_arena(num_bytes: int, arena_id: ArenaId, descriptor: Any) -> SharedArena:
    return SharedArena(num_bytes, arena_id, descriptor.detach())


def receive_tensor(
    arena_id: ArenaId, block: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Return the tensor `shape` of a block, in a process that has mapped the arena."""
    return _arenas[arena_id].receive(block, shape, dtype)


def active_arena() -> SharedArena | None:
    """Return the arena that `empty_shared` allocates from, in this thread."""
    return _active.get()


@contextmanager
def activate(arena: SharedArena | None) -> Iterator[None]:
    """Let `empty_shared` allocate from an arena, in this thread."""
    token = _active.set(arena)
    try:
        yield
    finally:
        _active.reset(token)


def set_worker_arena(arena: SharedArena) -> None:
    """Let `empty_shared` allocate from an arena from now on, in the thread that reads samples."""
    _active.set(arena)


def create_arenas(number: int, num_bytes: int) -> list[SharedArena]:
    """Create the arenas of a loader; none if they are disabled or the system has none."""
    if not num_bytes or not hasattr(os, "memfd_create"):  # Linux has it
        return []
    try:
        return [SharedArena(num_bytes) for _ in range(number)]
    except OSError as error:
        log.warning(
            "Cannot reserve data.frame_arena_gb=%g for each of %d workers: %s. Frames get new"
            " memory each time, which is slower.",
            num_bytes / 1e9,
            number,
            error.strerror,
        )
        return []


def empty_shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Allocate an uninitialized contiguous tensor on the CPU.

    It is in the active arena, if that has memory left. Otherwise it is in new memory: shared memory
    inside a worker, so that sending it copies nothing.

    Args:
        shape: such as `(frames, 3, height, width)`.
        dtype: of the tensor.

    Source: torch's `default_collate`, which allocates its batches in shared memory.
    """
    arena = active_arena()
    tensor = arena.allocate(shape, dtype) if arena else None
    if tensor is not None:
        return tensor
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    shared = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(shared).view(shape)
