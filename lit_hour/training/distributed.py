"""Collectives outside of Lightning's strategies."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class CrossRankMax:
    """All-reduce MAX of one integer, on a gloo group of its own.

    The group connects CPUs, so a reduction neither waits for a GPU nor gets between the collectives
    of the gradients.
    """

    _group: Any = None

    def reduce(self, number: int) -> int:
        """Return the largest `number` of all ranks. Every rank has to call this equally often.

        The first call creates the group. A process alone gets its own number back.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return number
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        numbers = torch.tensor([int(number)])  # (1,)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group)
        return int(numbers)


def gather_texts(text: str) -> list[str]:
    """Return the text of each rank, in order. Every rank has to call this equally often."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [text]
    texts = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return texts
