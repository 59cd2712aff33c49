"""The memory of a video or of images: where its tokens stand, and which of them are kept.

The model and the processor both use it: a kept token has a placeholder in `input_ids`.

Source: Hour-LLaVA (arXiv:2506.05332), memory repository and forgetting.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SHRINK_ABOVE = 1.1  # ratio of side lengths; an image that is hardly too large keeps its size


class MemorySettings(NamedTuple):
    """What the memory keeps.

    Attributes:
        frame_side: rows and columns of tokens of a video frame.
        image_side: rows and columns of tokens of an image or tile.
        max_tiles: an image with more tokens than this many tiles is shrunk to them.
        min_frames: the frames of a shorter video are repeated up to this many.
        max_kept_frames: largest number of frames that are kept.
        spatial_keep_ratio: share of the tokens of a frame or image that are kept.
        temporal_keep_ratio: share of the frames that are kept.
        spatial_forgetting: every n-th row and column, a draw that is the same each time, or all.
        temporal_forgetting: evenly spaced frames, or all.
    """

    frame_side: int
    image_side: int
    max_tiles: int
    min_frames: int
    max_kept_frames: int
    spatial_keep_ratio: float
    temporal_keep_ratio: float
    spatial_forgetting: Literal["uniform", "random", "none"]
    temporal_forgetting: Literal["uniform", "none"]


class Visual(NamedTuple):
    """What a text is about.

    Attributes:
        kind: frames of a video, one image with its tiles, or several images.
        num_images: frames, tiles with the small view before them, or images.
        tile_grid: rows and columns of tiles of one image.
        image_size: height and width of one image, in pixels.
    """

    kind: Literal["video", "tiles", "images"]
    num_images: int
    tile_grid: tuple[int, int] = (0, 0)
    image_size: tuple[int, int] = (0, 0)


class TokenGrid(NamedTuple):
    """Equal grids of tokens; a newline token follows each grid, each row, or nothing."""

    num_grids: int
    rows: int
    columns: int
    newline: Literal["grid", "row", "none"]


def evenly_spaced(num_items: int, num_chosen: int) -> Tensor:
    """Return evenly spaced indices `(chosen,)`, with the first and the last item."""
    points = np.linspace(0, num_items - 1, num_chosen)  # (chosen,), rounded down as in training
    return torch.from_numpy(np.floor(points).astype(np.int64))


def token_grids(visual: Visual, settings: MemorySettings) -> list[TokenGrid]:
    """Return the grids of tokens of a memory, in order."""
    side = settings.image_side
    if visual.kind == "video":
        num_frames = max(visual.num_images, settings.min_frames)
        return [TokenGrid(num_frames, settings.frame_side, settings.frame_side, "grid")]
    if visual.kind == "images":
        return [TokenGrid(1, side, side, "grid")] * visual.num_images
    bars = letterbox_bars(visual, side)
    rows, columns = (
        tiles * side - 2 * bar for tiles, bar in zip(visual.tile_grid, bars, strict=True)
    )
    ratio = math.sqrt(rows * columns / (settings.max_tiles * side**2))
    if ratio > SHRINK_ABOVE:
        rows, columns = max(1, int(rows // ratio)), max(1, int(columns // ratio))
    return [TokenGrid(1, side, side, "none"), TokenGrid(1, rows, columns, "row")]


def letterbox_bars(visual: Visual, side: int) -> tuple[int, int]:
    """Return how many rows and columns of tokens are black bars, on each of two sides.

    Args:
        visual: one image with its tiles.
        side: rows and columns of tokens of a tile.
    """
    rows, columns = (tiles * side for tiles in visual.tile_grid)
    height, width = visual.image_size
    if width / height > columns / rows:
        return min(rows - int(height * (columns / width)), rows - 1) // 2, 0
    return 0, min(columns - int(width * (rows / height)), columns - 1) // 2


def choose_kept_tokens(visual: Visual, settings: MemorySettings) -> list[Tensor]:
    """Choose the tokens of the memory that the language model gets.

    Returns:
        Indices `(kept,)` for each placeholder of the prompt: one, or one for each of several
        images.
    """
    generator = Generator().manual_seed(0)
    kept, start = [], 0
    for grid in token_grids(visual, settings):
        mask = _keep_spatially(grid, settings, generator)  # (grids, rows, columns)
        if grid.newline == "grid":
            mask = mask.flatten(1)[:, None]  # (grids, 1, tokens): a grid is one line
        if grid.newline != "none":
            mask = torch.cat([mask, mask.any(dim=2, keepdim=True)], dim=2)  # with newlines
        indices = start + mask.flatten().nonzero().view(grid.num_grids, -1)  # (grids, kept)
        if visual.kind == "video":
            indices = indices[_kept_frames(grid.num_grids, settings)]  # (kept frames, kept)
        kept.append(indices.flatten())  # (kept,)
        start += mask.numel()
    return kept if visual.kind == "images" else [torch.cat(kept)]


def _keep_spatially(grid: TokenGrid, settings: MemorySettings, generator: Generator) -> Tensor:
    num_grids, rows, columns, _ = grid
    mask = torch.zeros(num_grids, rows, columns, dtype=torch.bool)  # (grids, rows, columns)
    if settings.spatial_forgetting == "none":
        return ~mask
    if settings.spatial_forgetting == "uniform":
        stride = round(settings.spatial_keep_ratio**-0.5)
        mask[:, ::stride, ::stride] = True
        return mask
    draws = torch.rand(num_grids, rows * columns, generator=generator)  # (grids, tokens)
    num_kept = math.ceil(settings.spatial_keep_ratio * rows * columns)
    kept = draws.topk(num_kept, dim=1, largest=False).indices  # (grids, kept)
    return mask.flatten(1).scatter(1, kept, True).view_as(mask)  # (grids, rows, columns)


def _kept_frames(num_frames: int, settings: MemorySettings) -> Tensor:
    if settings.temporal_forgetting == "none":
        return torch.arange(num_frames)
    share = math.floor(num_frames * settings.temporal_keep_ratio + 1e-9)  # a ratio may be 1/3
    return evenly_spaced(num_frames, min(settings.max_kept_frames, max(1, share)))


def arrange_memory(
    tokens: Tensor, newline: Tensor, visual: Visual, settings: MemorySettings
) -> tuple[Tensor, Tensor]:
    """Build the memory of a video or of images, with its newline tokens.

    Args:
        tokens: `(images, tokens, dim)`, of each frame, tile or image in raster order.
        newline: `(dim,)`.
        visual: what they are.
        settings: of the memory.

    Returns:
        All tokens `(memory, dim)` and their rotary positions `(memory,)`.
    """
    if visual.kind == "tiles":
        return _arrange_tiles(tokens, newline, visual, settings)
    if visual.kind == "video" and len(tokens) < settings.min_frames:
        tokens = tokens[evenly_spaced(len(tokens), settings.min_frames).to(tokens.device)]
    num_images, num_tokens, _ = tokens.shape
    memory = _append_newline(tokens, newline).flatten(0, 1)  # (memory, dim)
    if visual.kind == "video":
        return memory, torch.arange(len(memory), device=tokens.device)
    last = num_images * num_tokens  # the position of all newlines of several images
    positions = torch.arange(last, device=tokens.device).view(num_images, -1)  # (images, tokens)
    return memory, F.pad(positions, (0, 1), value=last).flatten()


def _arrange_tiles(
    tokens: Tensor, newline: Tensor, visual: Visual, settings: MemorySettings
) -> tuple[Tensor, Tensor]:
    """Build the memory of one image: a small view, then its tiles as one grid without the bars."""
    side, (_, (_, height, width, _)) = settings.image_side, token_grids(visual, settings)
    tiles = tokens[1:].view(*visual.tile_grid, side, side, -1)  # (rows, columns, side, side, dim)
    large = tiles.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)  # (dim, all rows, all columns)
    top, left = letterbox_bars(visual, side)
    large = large[:, top : large.shape[1] - top, left : large.shape[2] - left]
    if large.shape[1:] != (height, width):
        large = F.interpolate(large[None], (height, width), mode="bilinear")[0]
    positions = torch.arange(height * width, device=tokens.device).view(height, width)
    rows, columns = (
        torch.linspace(0, length - 1, side).round().long() for length in (height, width)
    )  # (side,), (side,)
    small_positions = positions[rows][:, columns]  # (side, side)
    large_positions = F.pad(positions, (0, 1), value=height * width)  # (height, width + 1)
    large = _append_newline(large.permute(1, 2, 0), newline).flatten(0, 1)  # (large, dim)
    return (
        torch.cat([tokens[0], large]),  # (memory, dim)
        torch.cat([small_positions.flatten(), large_positions.flatten()]),  # (memory,)
    )


def _append_newline(sequences: Tensor, newline: Tensor) -> Tensor:
    newlines = newline.to(sequences.dtype).expand(len(sequences), 1, -1)  # (sequences, 1, dim)
    return torch.cat([sequences, newlines], dim=1)  # (sequences, tokens + 1, dim)
