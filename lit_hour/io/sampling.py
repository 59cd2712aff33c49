"""Reproducible sampling: seeds that depend on a text alone, and evenly spaced indices."""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

import numpy as np


def seed_of(text: str, num_bytes: int = 7) -> int:
    """Return the first bytes of a text's SHA-256 as a number; 7 bytes fit into a torch seed.

    It is the same in every process, on every machine and in every version.
    """
    return int.from_bytes(sha256(text.encode()).digest()[:num_bytes], "big")


def evenly_spaced_indices(
    num_items: int, num_chosen: int, rounding: Literal["exact", "linspace", "nearest"]
) -> list[int]:
    """Return evenly spaced indices; the first and the last item are among them.

    Args:
        num_items: number of items to choose from.
        num_chosen: number of indices; with more than `num_items`, some are repeated.
        rounding: "exact" rounds i * (num_items - 1) / (num_chosen - 1) down in integers; "linspace"
            rounds NumPy's linspace down, as the training of the published model did, and differs
            by one for some lengths; "nearest" rounds linspace to the nearest integer.
    """
    if rounding == "exact":
        return [i * (num_items - 1) // max(num_chosen - 1, 1) for i in range(num_chosen)]
    points = np.linspace(0, num_items - 1, num_chosen)  # (num_chosen,)
    return (np.floor(points) if rounding == "linspace" else np.rint(points)).astype(int).tolist()
