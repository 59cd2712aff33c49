"""MemAug while it reads a question -> where it looks: the share of its attention that each token of the memory gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_hour.model.memaug import MemoryAugmentation
from lit_hour.model.memory_repository import MemoryRepository


@contextmanager
def capture_attention(memory: MemoryAugmentation) -> Iterator[list[Tensor]]:
    """Collect where each block looks, for each text that it is called with.

    Yields:
        A list that grows by `(memory,)` at each call of a block: the mean over its heads and over the rows of the query; it
        sums to 1.
    """
    looks: list[Tensor] = []

    @torch.no_grad()
    def look(attention: nn.Module, given: tuple[Any, ...], _: Tensor) -> None:
        looks.append(attention.attention_weights(*given))  # type: ignore[operator]

    hooks = [block.cross_attention.register_forward_hook(look) for block in memory.blocks]  # type: ignore[union-attr]
    try:
        yield looks
    finally:
        for hook in hooks:
            hook.remove()


def sum_per_frame(look: Tensor, repository: MemoryRepository) -> Tensor:
    """The share of each frame of a video, its tokens and its end together: `(memory,)` -> `(frames,)`."""
    return look.unflatten(0, (len(repository.timestamps), -1)).sum(dim=1)  # (frames,)
