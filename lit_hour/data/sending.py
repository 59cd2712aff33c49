"""Room for a tensor that a worker fills and its rank uses: in memory of both, so that sending does not copy it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


def room_to_send(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose numbers are still to be written; outside a worker it is like any other.

    Source: torch's `default_collate`, which makes its batches in the same way.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    shared = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(shared).view(shape)
