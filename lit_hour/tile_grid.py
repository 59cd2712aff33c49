"""Count the tokens of an image's grid of tiles after its black bars are cut and it is shrunk.

The model cuts tokens by these numbers, and the length of a sample follows from them without it.

Source: the published code of Hour-LLaVA, whose repositories are recorded in tests/golden.
"""

from __future__ import annotations

import math

SHRINK_ABOVE = 1.1  # ratio of side lengths; an image that is hardly too large keeps its size


def letterbox_bars(height: int, width: int, size_pixels: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows and columns of tokens are black bars, on each of two sides.

    One of both numbers is 0, and at least one row or column is left.

    Args:
        height: of the grid of tiles, in tokens.
        width: of the grid of tiles, in tokens.
        size_pixels: height and width of the image.
    """
    image_height, image_width = size_pixels
    if image_width / image_height > width / height:
        return _bar_width(height, image_height * (width / image_width)), 0
    return 0, _bar_width(width, image_width * (height / image_height))


def _bar_width(length: int, kept: float) -> int:
    return min(length - int(kept), length - 1) // 2


def shrunk_size(height: int, width: int, max_tokens: int) -> tuple[int, int]:
    """Return height and width of a grid of tokens, shrunk if it is larger than `max_tokens`."""
    ratio = math.sqrt(height * width / max_tokens)
    if ratio <= SHRINK_ABOVE:
        return height, width
    return max(1, int(height // ratio)), max(1, int(width // ratio))
