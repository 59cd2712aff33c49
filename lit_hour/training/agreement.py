"""A number of each rank -> the largest of all, the same on every rank: how the ranks decide together what only one may know."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class Agreement:
    """Asks all ranks, on a group of its own between CPUs, so that it neither waits for a GPU nor mixes with gradients."""

    def __init__(self) -> None:
        self._group: Any = None

    def connect(self) -> None:
        """Called by all ranks once they have found each other. A process alone asks nobody."""
        if self._group is None and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def largest(self, number: int) -> int:
        """The largest number that a rank has called this with. All have to call it equally often."""
        if self._group is None:
            return number
        numbers = torch.tensor([int(number)])  # (1,)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group)
        return int(numbers)
