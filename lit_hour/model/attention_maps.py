"""Capture the attention weights of MemAug over the memory, for notebooks and measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_hour.model.memaug import MemoryAugmentation
from lit_hour.model.memory_repository import KVCache, MemoryRepository


@contextmanager
def capture_attention(memaug: MemoryAugmentation) -> Iterator[list[Tensor]]:
    """Capture the cross-attention weights of each block for each text, by forward hooks.

    Yields:
        A list to which each call of a block appends `(memory,)` for each text: the mean over the
        heads and over the tokens of the query, which sums to 1. The last block has queries of the
        visual tokens only.
    """
    captured: list[Tensor] = []
    # of the texts of each memory, from the block's call: tokens of the query, and of its own keys
    lengths_to_come: list[tuple[Sequence[int], Sequence[int]]] = []

    def read_lengths(block: nn.Module, args: tuple[Any, ...]) -> None:
        _, _, text_lengths, _, _, selections = args
        lengths = [selection.lengths for selection in selections] or text_lengths
        lengths_to_come[:] = zip(lengths, text_lengths, strict=True)

    @torch.no_grad()
    def hook(attention: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        query, kv, rotary, *_ = args
        lengths, kv_lengths = lengths_to_come[0]
        parts = (tensor.split(lengths) for tensor in (query, *rotary))
        caches = [kv] * len(lengths)
        if not memaug.use_full_memory:  # each text attends to itself
            caches = list(map(KVCache, kv.keys.split(kv_lengths), kv.values.split(kv_lengths)))
        for tokens, cosine, sine, cache in zip(*parts, caches, strict=True):
            captured.append(attention.attention_weights(tokens, cache, (cosine, sine)))  # type: ignore[operator]
        del lengths_to_come[0]

    handles = [block.register_forward_pre_hook(read_lengths) for block in memaug.blocks]
    handles += [block.cross_attention.register_forward_hook(hook) for block in memaug.blocks]  # type: ignore[union-attr]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def sum_per_frame(weights: Tensor, repository: MemoryRepository) -> Tensor:
    """Sum attention weights `(memory,)` over the tokens of each frame of a video: `(frames,)`."""
    return weights.unflatten(0, (len(repository.timestamps), -1)).sum(dim=1)
