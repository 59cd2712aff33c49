"""A picture in, the whole of it and the tiles of a grid out: how one picture is seen in its own resolution.

Several pictures of one conversation in, each padded to a square out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image

from lit_hour.config.schema import ImageConfig
from lit_hour.errors import ImageError
from lit_hour.media.image_reader import MAX_PIXELS, read_image, to_square_tensor
from lit_hour.types import ImageSet, TiledImage


def load_tiled_image(data: bytes, name: str, size_pixels: int, settings: ImageConfig) -> TiledImage:
    """Decode a picture and cut it into tiles.

    The picture is fitted into the grid that loses least of it, with black bars on two sides, and the grid is cut row by
    row. Before its tiles stands the whole picture, without bars and without its aspect.

    Args:
        data: a whole picture file.
        name: where the data is from, for errors.
        size_pixels: side of a tile.
        settings: how large a grid may be.

    Raises:
        ImageError: the picture cannot be used, see `read_image`.

    Source: LLaVA's any-resolution pictures, as the published Hour-LLaVA reads them.
    """
    image = read_image(data, name)
    rows, columns = choose_grid(image.width, image.height, size_pixels, settings.max_grid)
    canvas = letterbox(image, columns * size_pixels, rows * size_pixels)
    corners = [
        (column * size_pixels, row * size_pixels)
        for row in range(rows)
        for column in range(columns)
    ]
    tiles = [
        canvas.crop((left, top, left + size_pixels, top + size_pixels)) for left, top in corners
    ]
    pictures = [
        to_square_tensor(picture, size_pixels) for picture in (image, *tiles)
    ]  # each (3, size, size)
    return TiledImage(
        tiles=torch.stack(pictures),  # (1 + rows * columns, 3, size, size)
        grid=(rows, columns),
        size_pixels=(image.height, image.width),
    )


def choose_grid(width: int, height: int, size_pixels: int, max_grid: int) -> tuple[int, int]:
    """Rows and columns of the grid that keeps most pixels of a picture, and of those the one with the smallest bars.

    Args:
        width, height: of the picture, in pixels.
        size_pixels: side of a tile.
        max_grid: most rows and most columns.
    """
    kept_and_wasted = {}
    for columns in range(1, max_grid + 1):
        for rows in range(1, max_grid + 1):
            grid_width, grid_height = columns * size_pixels, rows * size_pixels
            scale = min(grid_width / width, grid_height / height)
            kept = min(
                int(width * scale) * int(height * scale), width * height
            )  # enlarging a picture adds nothing to it
            kept_and_wasted[rows, columns] = (kept, kept - grid_width * grid_height)
    return max(kept_and_wasted, key=lambda grid: kept_and_wasted[grid])  # of equal ones the first


def letterbox(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize a picture to fit into `width` x `height` pixels with its aspect kept, and put it in the middle of black."""
    across, down = (
        width / image.width,
        height / image.height,
    )  # divided first, as published: it can round to a pixel more
    if across < down:
        fitted = (width, min(math.ceil(image.height * across), height))
    else:
        fitted = (min(math.ceil(image.width * down), width), height)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(
        image.resize(fitted, Image.Resampling.BICUBIC),
        ((width - fitted[0]) // 2, (height - fitted[1]) // 2),
    )
    return canvas


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
    squares = [
        to_square_tensor(_pad(read_image(data, name), name), size_pixels) for name, data in pictures
    ]
    return ImageSet(torch.stack(squares))  # (images, 3, size, size)


def _pad(image: Image.Image, name: str) -> Image.Image:
    side = max(image.size)
    if side * side > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise ImageError(
            f"{name} has {size} pixels; its square would have more than {MAX_PIXELS:,}: shrink it"
        )
    square = Image.new("RGB", (side, side), _GREY)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
