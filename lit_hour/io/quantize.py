"""Symmetric int8 quantization with one scale per token: an outlier affects its own token only."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_INT8 = 127
DEQUANT_CHUNK = 4  # leading indices converted at a time: they fit into a processor's cache


def quantize_int8(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize tokens so that the largest number of each becomes 127 or -127.

    Args:
        tokens: `(..., dim)` of any floating-point dtype.

    Returns:
        `(..., dim)` int8 in [-127, 127], and the scales `(...)` float32, at least 0, to multiply
        them by. A token of zeros stays zeros, with scale 0.
    """
    scales = tokens.float().abs().amax(-1) / MAX_INT8  # (...)
    divisors = scales.clamp(min=torch.finfo(torch.float32).tiny)  # (...): a token may be all zeros
    return (tokens.float() / divisors[..., None]).round().to(torch.int8), scales


def dequantize_int8(tokens: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo `quantize_int8`, up to half a scale.

    Args:
        tokens: `(..., dim)` int8.
        scales: `(...)` float32.
        dtype: floating-point dtype of the result.

    Returns:
        `(..., dim)`.
    """
    expanded = torch.empty_like(tokens, dtype=dtype)  # (..., dim)
    for start in range(0, len(tokens), DEQUANT_CHUNK):
        chunk = slice(start, start + DEQUANT_CHUNK)
        expanded[chunk] = tokens[chunk] * scales[chunk, ..., None]  # (..., dim)
    return expanded
