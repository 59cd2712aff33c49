"""A device and a dtype -> how many operations per second its matrix product does here, now: the limit of what is dense."""

from __future__ import annotations

import time

import torch

SIDE = {"cuda": 8192, "cpu": 2048}  # large enough for the full rate, small enough for a second
NUM_ROUNDS = 5
DATA_SHEETS = {
    "H100": 989e12,
    "H200": 989e12,
}  # dense bf16 FLOP/s, without sparsity, of the SXM boards


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square product; the best of a few."""
    side = SIDE[device.type]
    one, other = (
        torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)
    )  # (side, side)
    seconds = min(
        _seconds_of_product(one, other) for _ in range(1 + NUM_ROUNDS)
    )  # the first also finds the kernel
    return 2 * side**3 / seconds


def data_sheet_rate(device: torch.device) -> float | None:
    """FLOP/s in bf16 that the maker states, if we know the name of the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rate for known, rate in DATA_SHEETS.items() if known in name), None)


def wait_for(device: torch.device) -> None:
    """Until all that was given to a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds_of_product(one: torch.Tensor, other: torch.Tensor) -> float:
    repeats = 10 if one.is_cuda else 1
    wait_for(one.device)
    started = time.perf_counter()
    for _ in range(repeats):
        one @ other  # (side, side)
    wait_for(one.device)
    return (time.perf_counter() - started) / repeats
