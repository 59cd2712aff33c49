"""Projected frame tokens -> the repository: every token of a video in order, each frame closed by a learned token.

Vision tokens -> the repository of a video whose tokens are not made, for who reads it once and asks nothing else of it.

MemAug needs keys and values of all tokens, and the tokens themselves of the few that survive. The projector's last layer and
a layer of keys are one matrix, which is made once for all tokens: K (W hidden + b) + c = (K W) hidden + (K b + c). So the
repository is never in memory as a whole, and two of three products for each of its tokens are one.


Projected tokens of pictures -> a repository: one picture in tiles, or several whole ones.

A picture in tiles is there twice: small as a whole, and large as one grid put together from its tiles. Both share
positions, so that a token of the small one lies where the large one has the same place of the picture.

Source: reference arithmetic of Hour-LLaVA, section 4 of its description; LLaVA's any-resolution pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.model.projector import Projector

if TYPE_CHECKING:
    from lit_hour.model.attention import KVCache


@dataclass(frozen=True)
class TokenGrid:
    """Equal grids of tokens that lie end to end in a repository: the frames of a video, or a picture.

    Attributes:
        count: grids.
        rows, columns: of tokens in each, in raster order.
        ends: where a learned end token stands: behind each grid, behind each row (of a single grid), or nowhere.
    """

    count: int
    rows: int
    columns: int
    newline: Literal["grid", "row", "none"] = "grid"

    @property
    def num_patch_tokens(self) -> int:
        """Tokens of one grid, without end tokens."""
        return self.rows * self.columns

    @property
    def num_tokens(self) -> int:
        """Tokens of one grid, with end tokens."""
        return self.num_patch_tokens + {"grid": 1, "row": self.rows, "none": 0}[self.newline]


@dataclass(frozen=True)
class MemoryRepository:
    """Every token of a video or of pictures, the memory that MemAug looks back into.

    Attributes:
        tokens: `(tokens, dim)`; of a video for each frame its tokens in raster order, then the end token:
            `(frames * (grid * grid + 1), dim)`.
        positions: `(tokens,)` the rotary position of each token.
        grids: what the tokens are, in order.
        timestamps: `(frames,)` in seconds; empty for pictures.
        num_placeholders: how many placeholders the tokens take the place of; the grids are dealt out to them evenly.
    """

    tokens: Tensor
    positions: Tensor
    grids: tuple[TokenGrid, ...]
    timestamps: Tensor
    num_placeholders: int = 1

    @property
    def num_frames(self) -> int:
        """Frames in the memory, after a short video was repeated up to the minimum; 0 for pictures."""
        return len(self.timestamps)


@dataclass(frozen=True)
class CachedRepository(MemoryRepository):
    """A repository that was read once for all questions: they look into `keys_values`, one for each block of MemAug.

    These are of its own tokens: who wants others in their places asks `with_tokens`, not `dataclasses.replace`.
    """

    kv_caches: tuple[KVCache, ...] = ()


def build_video_repository(
    tokens: Tensor, frame_newline: Tensor, timestamps: Tensor, min_frames: int
) -> MemoryRepository:
    """Lay the tokens of a video end to end.

    Args:
        tokens: `(frames, tokens, dim)`, each frame's tokens in raster order.
        frame_newline: `(dim,)`, the learned vector that closes each frame.
        timestamps: `(frames,)` in seconds.
        min_frames: a shorter video is repeated up to this many; each copy has positions of its own.

    Returns:
        A repository of `(frames * (tokens + 1), dim)`, its positions counting from 0.

    Source: Hour-LLaVA (arXiv:2506.05332), memory repository.
    """
    tokens, timestamps = repeat_frames(
        tokens, timestamps, min_frames
    )  # (frames, tokens, dim), (frames,)
    laid_out = append_newline(tokens, frame_newline).flatten(0, 1)  # (frames * (tokens + 1), dim)
    return MemoryRepository(laid_out, *enumerate_tokens(tokens), timestamps)


def repeat_frames(tokens: Tensor, timestamps: Tensor, min_frames: int) -> tuple[Tensor, Tensor]:
    """Tokens `(frames, tokens, dim)` and seconds `(frames,)` of a video, repeated if there are fewer than `min_frames`."""
    if len(tokens) >= min_frames:
        return tokens, timestamps
    chosen = linspace_indices(len(tokens), min_frames).to(tokens.device)  # (frames,)
    return tokens[chosen], timestamps[chosen]  # (frames, tokens, dim), (frames,)


def enumerate_tokens(tokens: Tensor) -> tuple[Tensor, tuple[TokenGrid]]:
    """Positions `(frames * (tokens + 1),)` from 0 and the raster of a video's tokens `(frames, tokens, dim)` and their ends."""
    num_frames, num_tokens, _ = tokens.shape
    side = math.isqrt(num_tokens)
    positions = torch.arange(
        num_frames * (num_tokens + 1), device=tokens.device
    )  # (frames * (tokens + 1),)
    return positions, (TokenGrid(num_frames, side, side),)


def with_tokens(repository: MemoryRepository, tokens: Tensor) -> MemoryRepository:
    """The same repository with tokens `(tokens, dim)` in the places of its own, of which nothing is prepared."""
    return MemoryRepository(
        tokens,
        repository.positions,
        repository.grids,
        repository.timestamps,
        repository.num_placeholders,
    )


def append_newline(runs: Tensor, end: Tensor) -> Tensor:
    """Runs of tokens `(runs, tokens, dim)`, each followed by the end token `(dim,)`: `(runs, tokens + 1, dim)`."""
    return torch.cat(
        [runs, end.to(runs.dtype).expand(len(runs), 1, -1)], dim=1
    )  # (runs, tokens + 1, dim)


def linspace_indices(num_items: int, num_chosen: int) -> Tensor:
    """Which of `num_items` are taken when `num_chosen` are wanted: `(num_chosen,)`, the first and the last among them.

    numpy's linspace in double precision, then rounded down: for some lengths this differs by one from exact integer
    arithmetic, and the published model was trained with it.
    """
    return torch.from_numpy(
        np.floor(np.linspace(0, num_items - 1, num_chosen)).astype(np.int64)
    )  # (num_chosen,)


class LazyTokens(NamedTuple):
    """The tokens of frames, each closed by an end token, before the projector's last layer.

    Attributes:
        hidden: `(frames, tokens, hidden)`.
        weight: `(dim, hidden)` of the last layer.
        bias: `(dim,)` of the last layer.
        end: `(dim,)` the end token, which is not projected.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    newline: Tensor

    def gather(self, places: Tensor) -> Tensor:
        """Some of the tokens: `(kept,)` places -> `(kept, dim)`."""
        length = self.hidden.shape[1] + 1
        frames, tokens = places // length, places % length  # (kept,), (kept,)
        is_end = tokens == length - 1  # (kept,)
        hidden = self.hidden[frames, tokens.masked_fill(is_end, 0)]  # (kept, hidden)
        projected = F.linear(hidden, self.weight, self.bias)  # (kept, dim)
        return torch.where(
            is_end[:, None], self.newline.to(projected.dtype), projected
        )  # (kept, dim)

    def linear(self, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """What layers make of all tokens: `(frames * (tokens + 1), outputs)` for each."""
        weight = torch.cat([layer.weight for layer in layers])  # (outputs, dim)
        bias = torch.cat([layer.bias for layer in layers])  # (outputs,)
        folded_bias = F.linear(self.bias, weight, bias)  # (outputs,)
        rows = F.linear(
            self.hidden, weight @ self.weight, folded_bias.to(bias.dtype)
        )  # (frames, tokens, outputs)
        closed = append_newline(rows, F.linear(self.newline, weight, bias)).flatten(
            0, 1
        )  # (frames * (tokens + 1), outputs)
        return closed.split([layer.out_features for layer in layers], dim=1)


@dataclass(frozen=True)
class LazyMemoryRepository:
    """Every token of a video, as `Repository` has them, but not made yet."""

    tokens: LazyTokens
    positions: Tensor
    grids: tuple[TokenGrid, ...]
    timestamps: Tensor
    num_placeholders: int = 1

    @property
    def num_frames(self) -> int:
        """Frames in the memory, after a short video was repeated up to the minimum."""
        return len(self.timestamps)


MemoryTokens = Tensor | LazyTokens
AnyRepository = MemoryRepository | LazyMemoryRepository


def build_lazy_repository(
    encoded: Tensor,
    projector: Projector,
    frame_newline: Tensor,
    timestamps: Tensor,
    min_frames: int,
) -> LazyMemoryRepository:
    """As `build_repository`, of what the vision encoder made: `encoded` `(frames, tokens, vision_dim)`."""
    hidden, timestamps = repeat_frames(
        projector.hidden(encoded), timestamps, min_frames
    )  # (frames, tokens, dim), (frames,)
    tokens = LazyTokens(hidden, projector.last.weight, projector.last.bias, frame_newline)
    return LazyMemoryRepository(tokens, *enumerate_tokens(hidden), timestamps)


SHRINK_ABOVE = 1.1  # times too long a side; a picture that is hardly too large stays as it is


def build_image_set_repository(tokens: Tensor, end: Tensor) -> MemoryRepository:
    """Lay pictures end to end, each closed by the end token; all end tokens have the one position behind the last token.

    Args:
        tokens: `(images, tokens, dim)`, each in raster order.
        end: `(dim,)`.
    """
    num_images, num_tokens, _ = tokens.shape
    side, device = math.isqrt(num_tokens), tokens.device
    places = torch.arange(num_images * num_tokens, device=device).view(
        num_images, num_tokens
    )  # (images, tokens)
    ends = torch.full((num_images, 1), num_images * num_tokens, device=device)  # (images, 1)
    return MemoryRepository(
        tokens=append_newline(tokens, end).flatten(0, 1),  # (images * (tokens + 1), dim)
        positions=torch.cat([places, ends], dim=1).flatten(),  # (images * (tokens + 1),)
        grids=(TokenGrid(1, side, side),) * num_images,
        timestamps=torch.empty(0, device=device),  # (0,)
        num_placeholders=num_images,
    )


def build_tiled_image_repository(
    tokens: Tensor, end: Tensor, grid: tuple[int, int], size_pixels: tuple[int, int], max_tiles: int
) -> MemoryRepository:
    """Lay out the whole picture, then the grid of its tiles without their letterbox, each row closed by the end token.

    Args:
        tokens: `(1 + rows * columns, tokens, dim)`, the whole first.
        end: `(dim,)`.
        grid: rows and columns of tiles.
        size_pixels: height and width of the picture as it was.
        max_tiles: a grid with more tokens than this many tiles have is shrunk to them.
    """
    side = math.isqrt(tokens.shape[1])
    pieces = (
        tokens[1:].view(*grid, side, side, -1).permute(4, 0, 2, 1, 3)
    )  # (dim, rows, side, columns, side)
    large = cut_letterbox(pieces.flatten(3, 4).flatten(1, 2), size_pixels)  # (dim, height, width)
    large = _shrink(large, max_tiles * side**2)  # (dim, height, width)
    _, height, width = large.shape
    places = torch.arange(height * width, device=tokens.device).view(
        height, width
    )  # (height, width)
    lines, columns = (
        torch.linspace(0, length - 1, side).round().long() for length in (height, width)
    )  # (side,)
    ends = torch.full((height, 1), height * width, device=tokens.device)  # (height, 1)
    return MemoryRepository(
        tokens=torch.cat(
            [tokens[0], append_newline(large.permute(1, 2, 0), end).flatten(0, 1)]
        ),  # (tokens, dim)
        positions=torch.cat(
            [places[lines][:, columns].flatten(), torch.cat([places, ends], dim=1).flatten()]
        ),  # (tokens,)
        grids=(
            TokenGrid(1, side, side, newline="none"),
            TokenGrid(1, height, width, newline="row"),
        ),
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
    return F.interpolate(grid[None], size=size, mode="bilinear", align_corners=False)[
        0
    ]  # (dim, height, width)
