"""Several pictures of one conversation in, each padded to a square out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from lit_hour.errors import ImageError
from lit_hour.image.read import MAX_PIXELS, read_image, to_square_tensor
from lit_hour.types import ImageSet

_GREY = (127, 127, 127)


def load_image_set(pictures: Sequence[tuple[str, bytes]], size_pixels: int) -> ImageSet:
    """Decode pictures, pad each with grey to a square with the picture in the middle, and resize it.

    Args:
        pictures: where each is from, for errors, and its whole file.
        size_pixels: side of the squares that come out.

    Raises:
        ImageError: a picture cannot be used, see `read_image`, or its square would have more than `MAX_PIXELS`.

    Source: LLaVA's padded pictures, as the published Hour-LLaVA reads several of them.
    """
    squares = [to_square_tensor(_pad(read_image(data, name), name), size_pixels) for name, data in pictures]
    return ImageSet(torch.stack(squares))  # (images, 3, size, size)


def _pad(image: Image.Image, name: str) -> Image.Image:
    side = max(image.size)
    if side * side > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise ImageError(f"{name} has {size} pixels; its square would have more than {MAX_PIXELS:,}: shrink it")
    square = Image.new("RGB", (side, side), _GREY)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
