"""The one precision in which every command computes: `serving.precision`.

Entry points: `resolve_dtype` and `cast_weights`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "fp32", "bf16"]


def resolve_dtype(precision: Precision, device: str | torch.device) -> torch.dtype:
    """Return the dtype of the weights for `serving.precision` on a device.

    "auto" is bf16 on a GPU that computes in it, and fp32 on any other device.
    """
    if precision == "auto":
        is_gpu = torch.device(device).type == "cuda"
        has_bf16 = is_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def precision_name(dtype: torch.dtype) -> str:
    """Return the value of `serving.precision` for a dtype: "fp32" or "bf16"."""
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast what a checkpoint holds of a model on the meta device; this takes no memory.

    Non-persistent buffers, such as rotary tables, keep their dtype: bfloat16 cannot tell the
    positions of an hour apart.
    """
    state = {
        name: weight.to(dtype) if weight.is_floating_point() else weight
        for name, weight in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
