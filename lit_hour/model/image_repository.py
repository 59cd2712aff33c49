"""Projected tokens of pictures -> a repository: one picture in tiles, or several whole ones.

A picture in tiles is there twice: small as a whole, and large as one grid put together from its tiles. Both share
positions, so that a token of the small one lies where the large one has the same place of the picture.

Source: reference arithmetic of Hour-LLaVA, section 4 of its description; LLaVA's any-resolution pictures.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_hour.model.repository import close_each
from lit_hour.types import Raster, Repository

SHRINK_ABOVE = 1.1  # times too long a side; a picture that is hardly too large stays as it is


def build_image_set_repository(tokens: Tensor, end: Tensor) -> Repository:
    """Lay pictures end to end, each closed by the end token; all end tokens have the one position behind the last token.

    Args:
        tokens: `(images, tokens, dim)`, each in raster order.
        end: `(dim,)`.
    """
    num_images, num_tokens, _ = tokens.shape
    side, device = math.isqrt(num_tokens), tokens.device
    places = torch.arange(num_images * num_tokens, device=device).view(num_images, num_tokens)  # (images, tokens)
    ends = torch.full((num_images, 1), num_images * num_tokens, device=device)  # (images, 1)
    return Repository(
        tokens=close_each(tokens, end).flatten(0, 1),  # (images * (tokens + 1), dim)
        positions=torch.cat([places, ends], dim=1).flatten(),  # (images * (tokens + 1),)
        rasters=(Raster(1, side, side),) * num_images,
        timestamps=torch.empty(0, device=device),  # (0,)
        num_placeholders=num_images,
    )


def build_tiled_image_repository(
    tokens: Tensor, end: Tensor, grid: tuple[int, int], size_pixels: tuple[int, int], max_tiles: int
) -> Repository:
    """Lay out the whole picture, then the grid of its tiles without their letterbox, each row closed by the end token.

    Args:
        tokens: `(1 + rows * columns, tokens, dim)`, the whole first.
        end: `(dim,)`.
        grid: rows and columns of tiles.
        size_pixels: height and width of the picture as it was.
        max_tiles: a grid with more tokens than this many tiles have is shrunk to them.
    """
    side = math.isqrt(tokens.shape[1])
    pieces = tokens[1:].view(*grid, side, side, -1).permute(4, 0, 2, 1, 3)  # (dim, rows, side, columns, side)
    large = cut_letterbox(pieces.flatten(3, 4).flatten(1, 2), size_pixels)  # (dim, height, width)
    large = _shrink(large, max_tiles * side**2)  # (dim, height, width)
    _, height, width = large.shape
    places = torch.arange(height * width, device=tokens.device).view(height, width)  # (height, width)
    lines, columns = (torch.linspace(0, length - 1, side).round().long() for length in (height, width))  # (side,)
    ends = torch.full((height, 1), height * width, device=tokens.device)  # (height, 1)
    return Repository(
        tokens=torch.cat([tokens[0], close_each(large.permute(1, 2, 0), end).flatten(0, 1)]),  # (tokens, dim)
        positions=torch.cat([places[lines][:, columns].flatten(), torch.cat([places, ends], dim=1).flatten()]),  # (tokens,)
        rasters=(Raster(1, side, side, ends="none"), Raster(1, height, width, ends="row")),
        timestamps=torch.empty(0, device=tokens.device),  # (0,)
    )


def cut_letterbox(grid: Tensor, size_pixels: tuple[int, int]) -> Tensor:
    """Cut off what stands for the black bars that gave the picture the shape of its grid of tiles.

    Args:
        grid: `(dim, height, width)` tokens of all tiles.
        size_pixels: height and width of the picture.

    Returns:
        `(dim, height, width)` with less height, or less width.
    """
    _, height, width = grid.shape
    picture_height, picture_width = size_pixels
    if picture_width / picture_height > width / height:
        bar = _bar(height, picture_height * (width / picture_width))
        return grid[:, bar : height - bar]  # (dim, height, width)
    bar = _bar(width, picture_width * (height / picture_height))
    return grid[:, :, bar : width - bar]  # (dim, height, width)


def _bar(length: int, kept: float) -> int:
    """Lines of tokens to cut on each side; of the thinnest picture at least one line is left."""
    return min(length - int(kept), length - 1) // 2


def _shrink(grid: Tensor, max_tokens: int) -> Tensor:
    _, height, width = grid.shape
    times = math.sqrt(height * width / max_tokens)
    if times <= SHRINK_ABOVE:
        return grid
    size = (max(1, int(height // times)), max(1, int(width // times)))
    return F.interpolate(grid[None], size=size, mode="bilinear", align_corners=False)[0]  # (dim, height, width)
