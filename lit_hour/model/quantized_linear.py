"""Weight-only quantization of frozen linear layers, to int8 or int4: `quantize_frozen_layers`.

The activations keep their precision. A weight is dequantized when it is used, in the forward pass
and again in the backward pass, so that autograd keeps no copy of it.

    int8    a scale for each row: 8 bits and a little for a weight
    int4    a scale and a minimum in float16 for each 32 weights of a row, as in GGUF's Q4_1: 5 bits
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.io.quantize import quantize_int8

GROUP = 32  # weights that share a scale and a minimum in int4
MAX_INT4 = 15
ADAPTER = ".lora_"


class QuantizedLinear(nn.Module):
    """A frozen linear layer with its weight in int8 or int4.

    Its tensors are not part of the state dict: checkpoints name the base that they come from.
    """

    values: Tensor
    scales: Tensor
    minima: Tensor | None

    def __init__(self, linear: nn.Linear, kind: Literal["int8", "int4"]) -> None:
        """Quantize the weight of a layer; the bias stays."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        weight = linear.weight.detach()  # (outputs, inputs)
        if kind == "int8":
            values, scales = quantize_int8(weight)  # (outputs, inputs), (outputs,)
            minima = None
        else:
            values, scales, minima = quantize_int4(weight)
        for name, tensor in (("values", values), ("scales", scales), ("minima", minima)):
            self.register_buffer(name, tensor, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, `(outputs, inputs)` float32, as peft's DoRA reads it."""
        return _dequantize(self.values, self.scales, self.minima, torch.float32)

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer: `(..., inputs)` -> `(..., outputs)`, in autocast's precision if any."""
        device = inputs.device.type
        if torch.is_autocast_enabled(device):
            inputs = inputs.to(torch.get_autocast_dtype(device))
        output = _QuantizedMatmul.apply(inputs, self.values, self.scales, self.minima)
        return output if self.bias is None else output + self.bias.to(output.dtype)

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        bits = 8 if self.minima is None else 4
        return f"{self.in_features}, {self.out_features}, bits={bits}"


class _QuantizedMatmul(torch.autograd.Function):
    """Product with a dequantized weight, which is made again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, values: Tensor, scales: Tensor, minima: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(values, scales, minima)
        return F.linear(inputs, _dequantize(values, scales, minima, inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        values, scales, minima = ctx.saved_tensors
        weight = _dequantize(values, scales, minima, gradient.dtype)  # (outputs, inputs)
        return gradient @ weight, None, None, None


def quantize_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize groups of a row between their smallest and largest weight.

    Args:
        weight: `(rows, columns)`; the columns are a multiple of `GROUP`.

    Returns:
        `(rows, columns / 2)` uint8 with two weights each, the first in the low bits; scales and
        minima `(rows, columns / GROUP, 1)` float16.
    """
    groups = weight.float().unflatten(1, (-1, GROUP))  # (rows, groups, GROUP)
    minima = groups.amin(-1, keepdim=True).half()  # (rows, groups, 1)
    scales = ((groups.amax(-1, keepdim=True) - minima.float()) / MAX_INT4).half()
    divisors = scales.float().clamp(min=torch.finfo(torch.float32).tiny)  # constant groups: 0
    codes = ((groups - minima.float()) / divisors).round().clamp(0, MAX_INT4)
    pairs = codes.to(torch.uint8).flatten(1).unflatten(1, (-1, 2))  # (rows, columns / 2, 2)
    return pairs[..., 0] | pairs[..., 1] << 4, scales, minima


def quantize_frozen_layers(network: nn.Module, kind: Literal["int8", "int4"]) -> int:
    """Quantize the frozen linear layers of decoder layers in place, but for adapters.

    Layers that are quantized already stay. For int4 a layer needs a multiple of 32 inputs; others
    become int8.

    Args:
        network: decoder layers, with adapters of peft or without.
        kind: precision of the weights.

    Returns:
        The number of layers that were quantized.
    """
    frozen = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear)
        and ADAPTER not in f".{name}"
        and not layer.weight.requires_grad
    ]
    for name, layer in frozen:
        parent, _, child = name.rpartition(".")
        fits = kind == "int8" or layer.in_features % GROUP == 0
        setattr(
            network.get_submodule(parent), child, QuantizedLinear(layer, kind if fits else "int8")
        )
    return len(frozen)


def _dequantize(
    values: Tensor, scales: Tensor, minima: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return the weight, `(outputs, inputs)`, in a floating-point dtype."""
    if minima is None:
        return values.to(dtype) * scales.to(dtype)[:, None]  # (outputs, inputs)
    codes = torch.stack([values & MAX_INT4, values >> 4], dim=-1).flatten(1)  # (outputs, inputs)
    groups = codes.unflatten(1, (-1, GROUP)).to(dtype)  # (outputs, groups, GROUP)
    return (groups * scales.to(dtype) + minima.to(dtype)).flatten(1)  # (outputs, inputs)
