"""Cut one image into tiles (`load_tiled_image`), or pad several to squares (`load_image_set`).

Both follow LLaVA: "anyres" tiles keep the resolution of a single image, and padded squares keep the
aspect ratio of several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image

from lit_hour.config.schema import ImageConfig
from lit_hour.errors import ImageError
from lit_hour.media.image_reader import MAX_PIXELS, read_image
from lit_hour.media.transforms import resize_image
from lit_hour.types import ImageSet, TiledImage

_PAD_COLOR = (127, 127, 127)


def load_tiled_image(data: bytes, name: str, image_size: int, config: ImageConfig) -> TiledImage:
    """Decode an image and cut it into tiles.

    The image is fitted into the grid that loses the fewest pixels, with black bars on two sides,
    and the grid is cut row by row. The first tile is the whole image, resized without keeping its
    aspect ratio.

    Args:
        data: content of an image file.
        name: where the data comes from, for error messages.
        image_size: side of a tile in pixels.
        config: how large a grid may be.

    Raises:
        ImageError: the image is not usable, see `read_image`.

    Source: LLaVA's any-resolution images, as the published Hour-LLaVA reads them.
    """
    image = read_image(data, name)
    rows, columns = choose_grid(image.width, image.height, image_size, config.max_grid)
    canvas = letterbox(image, columns * image_size, rows * image_size)
    tiles = [
        canvas.crop((left, top, left + image_size, top + image_size))
        for top in range(0, rows * image_size, image_size)
        for left in range(0, columns * image_size, image_size)
    ]
    tensors = [resize_image(tile, image_size) for tile in (image, *tiles)]
    return TiledImage(
        tiles=torch.stack(tensors),  # (1 + rows * columns, 3, size, size)
        grid=(rows, columns),
        size_pixels=(image.height, image.width),
    )


def choose_grid(width: int, height: int, image_size: int, max_grid: int) -> tuple[int, int]:
    """Return (rows, columns) of the grid that keeps the most pixels of an image.

    Among equal ones, the grid with the smallest bars wins.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        image_size: side of a tile in pixels.
        max_grid: largest number of rows and of columns.
    """
    kept_and_wasted = {}
    for columns in range(1, max_grid + 1):
        for rows in range(1, max_grid + 1):
            grid_width, grid_height = columns * image_size, rows * image_size
            scale = min(grid_width / width, grid_height / height)
            # Enlarging an image adds no information, so at most its own pixels count.
            kept = min(int(width * scale) * int(height * scale), width * height)
            kept_and_wasted[rows, columns] = (kept, kept - grid_width * grid_height)
    return max(kept_and_wasted, key=lambda grid: kept_and_wasted[grid])


def letterbox(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize an image to fit into `width` x `height` pixels, centered on black."""
    # The published code divides before it multiplies, which can round to one pixel more.
    scale_x, scale_y = width / image.width, height / image.height
    if scale_x < scale_y:
        size = (width, min(math.ceil(image.height * scale_x), height))
    else:
        size = (min(math.ceil(image.width * scale_y), width), height)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(
        image.resize(size, Image.Resampling.BICUBIC),
        ((width - size[0]) // 2, (height - size[1]) // 2),
    )
    return canvas


def load_image_set(images: Sequence[tuple[str, bytes]], image_size: int) -> ImageSet:
    """Decode images, pad each to a square with gray, and resize it.

    Args:
        images: for each image, where it comes from (for error messages) and its file content.
        image_size: side of the resulting squares in pixels.

    Raises:
        ImageError: an image is not usable, see `read_image`, or its square would have more than
            `MAX_PIXELS`.

    Source: LLaVA's padded images, as the published Hour-LLaVA reads several of them.
    """
    squares = [
        resize_image(_expand_to_square(read_image(data, name), name), image_size)
        for name, data in images
    ]
    return ImageSet(torch.stack(squares))  # (images, 3, size, size)


def _expand_to_square(image: Image.Image, name: str) -> Image.Image:
    side = max(image.size)
    if side * side > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels; padded to a square it would have"
            f" more than {MAX_PIXELS:,}. Shrink it."
        )
    square = Image.new("RGB", (side, side), _PAD_COLOR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
