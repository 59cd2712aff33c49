"""Which kernels torch's scaled_dot_product_attention chooses, by the names of its operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend
from torch.profiler import ProfilerActivity, profile

PREFIX = "aten::_scaled_dot_product_"
MATH = "attention_math"
FUSED = {  # backends to force, by the type of the device
    "cuda": (
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
    ),
    "cpu": (SDPBackend.FLASH_ATTENTION,),
}


def attention_kernels(run: Callable[[], object]) -> set[str]:
    """Return the names of the attention operations of a call, such as "flash_attention"."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    names = {event.key for event in trace.key_averages() if event.key.startswith(PREFIX)}
    return {name.removeprefix(PREFIX) for name in names if not name.endswith("_backward")}
