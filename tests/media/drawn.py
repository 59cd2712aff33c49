"""Pictures for the tests of this room."""

import io
from typing import Any

import numpy as np
from PIL import Image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of which no part looks like another."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def plane(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards, blue is 200: each pixel tells where it came from."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    picture[..., 2] = 200
    return Image.fromarray(picture)


def file_of(image: Image.Image, format: str = "PNG", **settings: Any) -> bytes:
    """The bytes of a file of the picture."""
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()
