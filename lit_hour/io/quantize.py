"""Tokens <-> 8-bit numbers with a scale for each token: an outlier coarsens its own token and no other."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127
DEQUANT_CHUNK = (
    4  # leading places that become float32 at once: they stay in the cache of a processor
)


def quantize_int8(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Round tokens, so that the largest number of each becomes 127 or -127.

    Args:
        tokens: `(..., dim)` of any floating dtype.

    Returns:
        `(..., dim)` int8 and the scales `(...)` float32 by which they are to be multiplied.
    """
    scales = tokens.float().abs().amax(-1) / LARGEST  # (...)
    steps = scales.clamp(min=torch.finfo(torch.float32).tiny)  # (...): a token may be all zeros
    return (tokens.float() / steps[..., None]).round().to(torch.int8), scales


def dequantize_int8(tokens: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Tokens `(..., dim)` again, from what `quantize_int8` made of them."""
    expanded = torch.empty_like(tokens, dtype=dtype)  # (..., dim)
    for start in range(0, len(tokens), DEQUANT_CHUNK):
        places = slice(start, start + DEQUANT_CHUNK)
        expanded[places] = tokens[places] * scales[places, ..., None]  # (..., dim)
    return expanded
