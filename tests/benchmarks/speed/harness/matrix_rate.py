"""Measure the rate of matrix products: the upper limit of dense computation on a device."""

from __future__ import annotations

import time

import torch

SIDE = {"cuda": 8192, "cpu": 2048}  # large enough for the full rate, small enough for a second
NUM_ROUNDS = 5
# Dense bf16 FLOP/s without sparsity, of the SXM boards, from the data sheets.
DATA_SHEETS = {"H100": 989e12, "H200": 989e12}


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a square matrix product; the best of several rounds."""
    side = SIDE[device.type]
    one, other = (
        torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)
    )  # (side, side)
    # one round more than counted, because the first one selects the kernel
    seconds = min(_seconds_of_product(one, other) for _ in range(1 + NUM_ROUNDS))
    return 2 * side**3 / seconds


def data_sheet_rate(device: torch.device) -> float | None:
    """Return the bf16 FLOP/s of the vendor's data sheet, or None for an unknown device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rate for known, rate in DATA_SHEETS.items() if known in name), None)


def synchronize(device: torch.device) -> None:
    """Wait until all work submitted to a GPU is done; return at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds_of_product(one: torch.Tensor, other: torch.Tensor) -> float:
    repeats = 10 if one.is_cuda else 1
    synchronize(one.device)
    started = time.perf_counter()
    for _ in range(repeats):
        one @ other  # (side, side)
    synchronize(one.device)
    return (time.perf_counter() - started) / repeats
