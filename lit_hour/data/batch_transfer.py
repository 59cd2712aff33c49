"""Send a batch from a worker to its rank without copying the frames.

torch sends every tensor as an open file of its own, over a new connection, which takes
milliseconds per batch. Here small tensors travel as bytes in the message, and large ones as a
block of the arena that worker and rank share. `prepare_to_send` is the entry point.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from lit_hour.data.shared_arena import SharedArena, active_arena, receive_tensor
from lit_hour.types import Batch

MAX_INLINE_BYTES = 65536


@dataclass(frozen=True)
class SentBatch:
    """A pickled batch. Pickling it sends the message; unpickling returns the batch."""

    message: bytes

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return ForkingPickler.loads, (self.message,)


def prepare_to_send(batch: Batch) -> Batch | SentBatch:
    """Pickle a batch in a worker; return the batch itself elsewhere.

    The worker's queue would pickle it in a thread of its own, whose errors reach nobody: the rank
    would wait for the batch until its timeout.

    Raises:
        RuntimeError: there is no memory left in `/dev/shm` for what does not fit into the arena.
    """
    if get_worker_info() is None:
        return batch
    message = io.BytesIO()
    _BatchPickler(message, active_arena()).dump(batch)
    return SentBatch(message.getvalue())


class _BatchPickler(ForkingPickler):
    """Pickles small tensors as bytes, others as blocks of an arena while it has memory left."""

    def __init__(self, stream: io.BytesIO, arena: SharedArena | None) -> None:
        super().__init__(stream)
        self._arena = arena

    def reducer_override(self, obj: Any) -> Any:
        """Return how to pickle a tensor; NotImplemented for what torch or Python pickles."""
        if type(obj) is not Tensor or obj.requires_grad or not obj.is_contiguous():
            return NotImplemented
        shape, arena = tuple(obj.shape), self._arena
        block = arena.send(obj) if arena else None
        if block is None and obj.nbytes <= MAX_INLINE_BYTES:
            return _tensor_of_bytes, (_bytes_of(obj), shape, obj.dtype)
        if block is None and arena and (copy := arena.allocate(shape, obj.dtype)) is not None:
            block = arena.send(copy.copy_(obj))
        if arena is None or block is None:
            return NotImplemented
        return receive_tensor, (arena.id, block, shape, obj.dtype)


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()  # (bytes,)


def _tensor_of_bytes(content: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).view(shape)
