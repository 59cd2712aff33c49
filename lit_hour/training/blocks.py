"""The repeated blocks of a model: compiled, and computed again in the backward pass instead of being remembered.

Both change how a block computes, in place, and neither the names nor the values of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lit_hour.model.hour_llava import HourLLaVA

CACHE = "past_key_values"  # what a layer of the language model is given while it makes an answer


def blocks_of(model: HourLLaVA) -> list[nn.Module]:
    """The blocks of the vision encoder, of MemAug and of the language model.

    Raises:
        ConfigError: the vision encoder is not made of blocks.
    """
    return [*model.vision.blocks, *model.memory.blocks, *model.language.layers]


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Let torch.compile translate each block, but not for making answers, where each token finds another length."""
    for block in blocks:
        block.forward = _unless_answering(torch.compile(block.forward), block.forward)


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Let each block keep only its inputs, and compute all else again when its gradient is wanted."""
    for block in blocks:
        block.forward = _again_in_backward(block.forward)


def _unless_answering(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*inputs: Any, **named: Any) -> Any:
        return (compiled if named.get(CACHE) is None else plain)(*inputs, **named)

    return forward


def _again_in_backward(plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*inputs: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(plain, *inputs, use_reentrant=False, **named)
        return plain(*inputs, **named)

    return forward
