"""Calls of the layers of a decoder, recorded so that a backward pass runs layer by layer.

`LanguageModel.backpropagate` uses both functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def record_layer_calls(
    decoder: Any, embeddings: Tensor
) -> list[tuple[Callable[..., Tensor], Tensor]]:
    """Run the decoder; return each layer and the final norm, with its input.

    Args:
        decoder: of transformers, with `layers` and `norm`.
        embeddings: `(1, tokens, dim)`.

    Returns:
        In the order of the calls: a function of the hidden states alone, and the hidden states
        `(1, tokens, dim)` that it was called with.
    """
    calls: list[tuple[Callable[..., Tensor], Tensor]] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, *others = args
        calls.append((lambda states: module(states, *others, **kwargs), hidden))

    modules = [*decoder.layers, decoder.norm]
    handles = [module.register_forward_pre_hook(record, with_kwargs=True) for module in modules]
    try:
        decoder(inputs_embeds=embeddings, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def input_gradient(
    function: Callable[..., Tensor], values: Tensor, output_gradient: Tensor | None = None
) -> Tensor:
    """Return the gradient of a function of one tensor; for a scalar without `output_gradient`."""
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(values), values, output_gradient)
    return gradient
