"""A picklable memory-mapped slice of a file. Pickling sends the file descriptor, not the bytes."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor

from lit_hour.types import Features


class MmapSlice:
    """Consecutive bytes of an open file, in the page cache that all processes share.

    The mapping is private: writes are visible to this process alone, and torch requires writable
        memory.
    """

    def __init__(self, descriptor: int, start: int, num_bytes: int) -> None:
        """Args: descriptor: of the open file; it is closed with the last slice that uses it."""
        self._file = FileIO(descriptor)
        self._start, self._num_bytes = start, num_bytes

    @cached_property
    def content(self) -> memoryview:
        """The bytes. A page is read from disk when it is accessed, unless it is cached."""
        if not self._num_bytes:
            return memoryview(b"")
        before = self._start % mmap.ALLOCATIONGRANULARITY
        pages = mmap.mmap(
            self._file.fileno(),
            before + self._num_bytes,
            access=mmap.ACCESS_COPY,
            offset=self._start - before,
        )
        return memoryview(pages)[before:]

    def __bytes__(self) -> bytes:
        return bytes(self.content)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild_slice, (DupFd(self._file.fileno()), self._start, self._num_bytes)


@dataclass(frozen=True)
class MmapFeatures(Features):
    """Features with tokens in the last bytes of a slice.

    Pickling sends the slice, not the tokens.
    """

    mmap_slice: MmapSlice

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        shape = tuple(self.tokens.shape)
        return _rebuild_features, (self.mmap_slice, self.tokens.dtype, shape, self.timestamps)


def _rebuild_slice(descriptor: Any, start: int, num_bytes: int) -> MmapSlice:
    return MmapSlice(descriptor.detach(), start, num_bytes)


def _rebuild_features(
    mmap_slice: MmapSlice, dtype: torch.dtype, shape: tuple[int, ...], timestamps: Tensor
) -> MmapFeatures:
    num_bytes = dtype.itemsize * int(torch.Size(shape).numel())
    tokens = torch.frombuffer(mmap_slice.content[-num_bytes:], dtype=dtype)  # (numbers,)
    return MmapFeatures(tokens.view(shape), timestamps, mmap_slice)  # (frames, tokens, vision_dim)
