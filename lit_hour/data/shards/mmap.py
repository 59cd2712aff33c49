"""A part of a file -> memory that shows it. Sent to another process, the open file travels, and none of its bytes."""

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
    """So many bytes of an open file.

    The memory is the system's own copy of the file, which all processes share; what is written to it, only this process sees.
    """

    def __init__(self, descriptor: int, start: int, num_bytes: int) -> None:
        """Args: descriptor: of the open file; it is closed with the last part that has it."""
        self._file = FileIO(descriptor)
        self._start, self._num_bytes = start, num_bytes

    @cached_property
    def content(self) -> memoryview:
        """The bytes, which are read from the disk when they are looked at, unless the system has them in memory."""
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
    """Features whose tokens are the end of a part of a file: what another process gets of them is the file."""

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
    tokens = torch.frombuffer(part.content[-num_bytes:], dtype=dtype).view(
        shape
    )  # (frames, tokens, vision_dim)
    return MmapFeatures(tokens, timestamps, part)
