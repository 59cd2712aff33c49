"""SHA-256 of weights: `hash_weights`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def hash_weights(weights: Mapping[str, Tensor], prefix: bytes = b"") -> str:
    """Return the SHA-256 of a prefix and of named weights in bf16, whatever their precision.

    All ranks of a sharded model must call it: it gathers the weights.

    Args:
        weights: name to tensor of any shape, floating-point dtype and device, or DTensor.
        prefix: bytes to hash first.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(prefix)
    for name, weight in sorted(weights.items()):
        full = weight.full_tensor() if isinstance(weight, DTensor) else weight
        digest.update(f"{name} {tuple(full.shape)}".encode())
        bits = full.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16)  # same shape
        digest.update(bits.numpy().tobytes())
    return digest.hexdigest()
