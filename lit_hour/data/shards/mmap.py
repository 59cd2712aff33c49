"""Picklable memory-mapped slices of files. Pickling sends the file descriptor, not the bytes."""

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
    """Memory-mapped byte range of an open file.

    The mapping is copy-on-write: processes share the pages of the OS page cache, and writes are
    visible only to the process that makes them.
    """

    def __init__(self, descriptor: int, start: int, num_bytes: int) -> None:
        """Take ownership of an open file descriptor; it is closed together with this object."""
        self._file = FileIO(descriptor)
        self._start, self._num_bytes = start, num_bytes

    @cached_property
    def content(self) -> memoryview:
        """Return the bytes; pages that are not in the page cache are read from disk on access."""
        before = self._start % mmap.ALLOCATIONGRANULARITY
        if not self._num_bytes:
            return memoryview(b"")
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
    """Features with tokens at the end of a memory-mapped slice; pickling sends only the slice."""

    mmap_slice: MmapSlice

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild_features, (
            self.mmap_slice,
            self.tokens.dtype,
            tuple(self.tokens.shape),
            self.timestamps,
        )


def _rebuild_slice(descriptor: Any, start: int, num_bytes: int) -> MmapSlice:
    return MmapSlice(descriptor.detach(), start, num_bytes)


def _rebuild_features(
    part: MmapSlice, dtype: torch.dtype, shape: tuple[int, ...], timestamps: Tensor
) -> MmapFeatures:
    num_bytes = dtype.itemsize * int(torch.Size(shape).numel())
    flat = torch.frombuffer(part.content[-num_bytes:], dtype=dtype)
    tokens = flat.view(shape)  # (frames, tokens, vision_dim)
    return MmapFeatures(tokens, timestamps, part)
