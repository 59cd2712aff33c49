"""The memory repository: every token of a video or of images, stored densely or lazily.

Entry points: `build_video_repository`, `build_image_set_repository` and
`build_tiled_image_repository`.

Source: Hour-LLaVA (arXiv:2506.05332), memory repository; its published code, whose outputs are
recorded in tests/golden; LLaVA's any-resolution (anyres) images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.model.vision_encoder import Projector
from lit_hour.tile_grid import letterbox_bars, shrunk_size

# Frames per activation checkpoint: few enough chunks in an hour that bfloat16 sums their gradients
# accurately.
CHECKPOINT_FRAMES = 128
# Frames above which activation checkpointing pays: it halves the memory of the projector's hidden
# layer, 0.27 GB for 512 frames at width 2,048 in float32, for a tenth of a short video's products
# but 0.4% of an hour's.
RECOMPUTE_ABOVE_FRAMES = 512


@dataclass(frozen=True)
class TokenGrid:
    """Equal grids of tokens that lie one after another in a repository: video frames, or an image.

    Attributes:
        count: number of grids.
        rows, columns: size of each grid, in tokens; tokens are in raster order.
        newline: where the learned newline token stands: after each grid, after each row (of a
            single grid), or nowhere.
    """

    count: int
    rows: int
    columns: int
    newline: Literal["grid", "row", "none"] = "grid"


class MemoryTokens(Protocol):
    """Tokens that attention reads, however they are stored (`DenseTokens`, `LazyTokens`)."""

    def gather(self, indices: Tensor) -> Tensor:
        """Return some of the tokens: indices `(kept,)` -> `(kept, dim)`."""

    def linear(self, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """Apply linear layers to all tokens: `(tokens, out_features)` for each layer."""

    def dense(self) -> Tensor:
        """Return all tokens, `(tokens, dim)`."""


@dataclass(frozen=True)
class KVCache:
    """Keys and values of a sequence for one attention layer.

    Attributes:
        keys: `(tokens, key_value_heads, head_dim)`, with rotary positions applied.
        values: `(tokens, key_value_heads, head_dim)`.
        group: the ranks that have the other tokens of a memory that is divided over them.
    """

    keys: Tensor
    values: Tensor
    group: ProcessGroup | None = None


class DenseTokens(NamedTuple):
    """`MemoryTokens` that are in memory. A NamedTuple, so that FSDP finds the tensor in it.

    Attributes:
        tensor: `(tokens, dim)`.
    """

    tensor: Tensor

    def gather(self, indices: Tensor) -> Tensor:
        """Return some of the tokens: indices `(kept,)` -> `(kept, dim)`."""
        return self.tensor[indices]

    def linear(self, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """Apply linear layers to all tokens: `(tokens, out_features)` for each layer."""
        return tuple(layer(self.tensor) for layer in layers)

    def dense(self) -> Tensor:
        """Return all tokens, `(tokens, dim)`."""
        return self.tensor


class LazyTokens(NamedTuple):
    """`MemoryTokens` of a video before the projector's last layer. A NamedTuple for FSDP, as above.

    MemAug needs the keys and values of all tokens, but the tokens themselves of only a few. The
    projector's last layer W and a key layer K are fused into one matrix:
    K (W hidden + b) + c = (K W) hidden + (K b + c). So the projected tokens of an hour are never in
    memory, and each token takes one matrix product instead of two
    (`test_lazy_tokens_equal_dense_tokens`).

    Attributes:
        hidden: `(frames, tokens, hidden)`, activations before the last layer.
        weight: `(dim, hidden)` of the last layer.
        bias: `(dim,)` of the last layer.
        newline: `(dim,)`, the token after each frame, which is not projected.
        time_embeddings: `(frames, dim)`, added to the projected tokens of each frame, or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    newline: Tensor
    time_embeddings: Tensor | None = None

    def gather(self, indices: Tensor) -> Tensor:
        """Return some of the tokens: indices `(kept,)` -> `(kept, dim)`."""
        frame_length = self.hidden.shape[1] + 1
        frames, tokens = indices // frame_length, indices % frame_length  # (kept,), (kept,)
        is_newline = tokens == frame_length - 1  # (kept,)
        hidden = self.hidden[frames, tokens.masked_fill(is_newline, 0)]  # (kept, hidden)
        projected = F.linear(hidden, self.weight, self.bias)  # (kept, dim)
        if self.time_embeddings is not None:
            projected = projected + self.time_embeddings[frames]  # (kept, dim)
        return torch.where(is_newline[:, None], self.newline.to(projected.dtype), projected)

    def linear(self, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """Apply linear layers to all tokens: `(tokens, out_features)` for each layer."""
        weight = torch.cat([layer.weight for layer in layers])  # (out_features, dim)
        bias = torch.cat([layer.bias for layer in layers])  # (out_features,)
        fused_bias = F.linear(self.bias, weight, bias).to(bias.dtype)  # (out_features,)
        fused_weight = weight @ self.weight  # (out_features, hidden)
        outputs = F.linear(self.hidden, fused_weight, fused_bias)  # (frames, tokens, out_features)
        if self.time_embeddings is not None:
            outputs = outputs + F.linear(self.time_embeddings, weight)[:, None]
        newlines = F.linear(self.newline, weight, bias).expand(len(outputs), 1, -1)
        outputs = torch.cat([outputs, newlines], dim=1)  # (frames, tokens + 1, out_features)
        return outputs.flatten(0, 1).split([layer.out_features for layer in layers], dim=1)

    def dense(self) -> Tensor:
        """Return all tokens, `(tokens, dim)`."""
        projected = F.linear(self.hidden, self.weight, self.bias)  # (frames, tokens, dim)
        projected = add_time_embeddings(projected, self.time_embeddings)
        return append_newline(projected, self.newline).flatten(0, 1)


@dataclass(frozen=True)
class MemoryRepository:
    """Every token of a video or of images: the memory that MemAug attends to.

    Attributes:
        memory: the tokens; of a video, for each frame its tokens in raster order, then the newline:
            `(frames * (grid * grid + 1), dim)`.
        positions: `(tokens,)`, the rotary position of each token.
        grids: what the tokens are, in order.
        timestamps: `(frames,)` in seconds; empty for images.
        num_placeholders: of images, in the text that they belong to; each gets an equal share of
            the grids. A text about a video chooses its own number.
        kv_caches: of each block of MemAug; empty in training. `StreamingRepository` builds them for
            videos, `HourLLaVA.with_kv_cache` for images and for videos of few frames.
    """

    memory: MemoryTokens
    positions: Tensor
    grids: tuple[TokenGrid, ...]
    timestamps: Tensor
    num_placeholders: int = 1
    kv_caches: tuple[KVCache, ...] = ()

    @property
    def tokens(self) -> Tensor:
        """All tokens, `(tokens, dim)`; lazy ones are computed by each access."""
        return self.memory.dense()

    @property
    def num_frames(self) -> int:
        """Frames in the memory, after a short video was repeated; 0 for images."""
        return len(self.timestamps)


def with_tokens(repository: MemoryRepository, tokens: Tensor) -> MemoryRepository:
    """Return the repository with other tokens, `(tokens, dim)`, and without KV caches."""
    return replace(repository, memory=DenseTokens(tokens), kv_caches=())


def build_video_repository(
    tokens: Tensor,
    newline: Tensor,
    timestamps: Tensor,
    min_frames: int,
    lazy_projector: Projector | None = None,
    time_embeddings: Tensor | None = None,
) -> MemoryRepository:
    """Build the repository of a video, with positions that count from 0.

    With `lazy_projector` the tokens are not materialized, for training. The hidden activations of a
    long video are recomputed in the backward pass, in chunks of frames, so that the projector's
    input is all that is kept for them.

    Args:
        tokens: `(frames, tokens, dim)`, the tokens of each frame in raster order; with
            `lazy_projector` the features `(frames, tokens, vision_dim)` that it projects.
        newline: `(dim,)`, the learned token that is appended to each frame.
        timestamps: `(frames,)` in seconds.
        min_frames: a shorter video is repeated up to this many frames; each copy of a frame has its
            own positions.
        lazy_projector: its hidden layers are applied at once, its last layer when tokens are read.
        time_embeddings: `(frames, dim)`, added to the tokens of each frame, not to its newline.
    """
    if lazy_projector is not None:
        layers, chunks = lazy_projector.layers[:-1], tokens.split(CHECKPOINT_FRAMES)
        if len(tokens) > RECOMPUTE_ABOVE_FRAMES:
            hidden = [checkpoint(layers, chunk, use_reentrant=False) for chunk in chunks]
        else:
            hidden = [layers(chunk) for chunk in chunks]  # (chunk, tokens, hidden) each
        tokens = hidden[0] if len(hidden) == 1 else torch.cat(hidden)  # (frames, tokens, hidden)
    else:
        tokens = add_time_embeddings(tokens, time_embeddings)
    if len(tokens) < min_frames:
        indices = evenly_spaced_indices(len(tokens), min_frames, "linspace")
        repeated = torch.tensor(indices, device=tokens.device)  # (frames,)
        tokens, timestamps = tokens[repeated], timestamps[repeated]
        time_embeddings = None if time_embeddings is None else time_embeddings[repeated]
    num_frames, num_tokens, _ = tokens.shape
    memory: MemoryTokens
    if lazy_projector is None:
        memory = DenseTokens(append_newline(tokens, newline).flatten(0, 1))
    else:
        last_layer: nn.Linear = lazy_projector.layers[-1]  # type: ignore[assignment]
        memory = LazyTokens(tokens, last_layer.weight, last_layer.bias, newline, time_embeddings)
    positions = torch.arange(num_frames * (num_tokens + 1), device=tokens.device)  # (tokens,)
    side = math.isqrt(num_tokens)
    return MemoryRepository(memory, positions, (TokenGrid(num_frames, side, side),), timestamps)


def build_image_set_repository(tokens: Tensor, newline: Tensor) -> MemoryRepository:
    """Build the repository of several images.

    All newline tokens have the same position: the one after the last token.

    Args:
        tokens: `(images, tokens, dim)`, in raster order.
        newline: `(dim,)`, the learned token that is appended to each image.
    """
    num_images, num_tokens, _ = tokens.shape
    side, last = math.isqrt(num_tokens), num_images * num_tokens
    positions = torch.arange(last, device=tokens.device).view(num_images, -1)  # (images, tokens)
    positions = F.pad(positions, (0, 1), value=last)  # (images, tokens + 1)
    return MemoryRepository(
        memory=DenseTokens(append_newline(tokens, newline).flatten(0, 1)),
        positions=positions.flatten(),  # (images * (tokens + 1),)
        grids=(TokenGrid(1, side, side),) * num_images,
        timestamps=torch.empty(0, device=tokens.device),  # (0,)
        num_placeholders=num_images,
    )


def build_tiled_image_repository(
    tokens: Tensor,
    newline: Tensor,
    grid: tuple[int, int],
    size_pixels: tuple[int, int],
    max_tiles: int,
) -> MemoryRepository:
    """Build the repository of one image: a small view of it, then its tiles as one large grid.

    The large grid is cut to the image, without the letterbox, and has a newline token after each
    row. A token of the small view has the position of the token of the large grid at the same place
    in the image.

    Args:
        tokens: `(1 + rows * columns, tokens, dim)`, those of the small view first.
        newline: `(dim,)`.
        grid: rows and columns of tiles.
        size_pixels: height and width of the original image.
        max_tiles: a grid with more tokens than this many tiles have is shrunk to them.
    """
    side = math.isqrt(tokens.shape[1])
    tiles = tokens[1:].view(*grid, side, side, -1)  # (rows, columns, side, side, dim)
    tiles = tiles.permute(4, 0, 2, 1, 3)  # (dim, rows, side, columns, side)
    large = crop_letterbox(tiles.flatten(3, 4).flatten(1, 2), size_pixels)  # (dim, height, width)
    large = _shrink(large, max_tiles * side**2)  # (dim, height, width)
    _, height, width = large.shape
    positions = torch.arange(height * width, device=tokens.device).view(height, width)
    rows, columns = (
        torch.linspace(0, length - 1, side).round().long() for length in (height, width)
    )  # (side,), (side,)
    small_positions = positions[rows][:, columns]  # (side, side)
    large_positions = F.pad(positions, (0, 1), value=height * width)  # (height, width + 1)
    large_tokens = append_newline(large.permute(1, 2, 0), newline)  # (height, width + 1, dim)
    return MemoryRepository(
        memory=DenseTokens(torch.cat([tokens[0], large_tokens.flatten(0, 1)])),
        positions=torch.cat([small_positions.flatten(), large_positions.flatten()]),  # (tokens,)
        grids=(
            TokenGrid(1, side, side, newline="none"),
            TokenGrid(1, height, width, newline="row"),
        ),
        timestamps=torch.empty(0, device=tokens.device),  # (0,)
    )


def add_time_embeddings(tokens: Tensor, time_embeddings: Tensor | None) -> Tensor:
    """Add the embedding of its time `(frames, dim)`, if any, to each token `(frames, tokens, dim)`.

    The tokens keep their dtype.
    """
    if time_embeddings is None:
        return tokens
    return tokens + time_embeddings[:, None].to(tokens.dtype)  # (frames, tokens, dim)


def append_newline(sequences: Tensor, newline: Tensor) -> Tensor:
    """Append the newline token to each sequence.

    Args:
        sequences: `(sequences, tokens, dim)`.
        newline: `(dim,)`.

    Returns:
        `(sequences, tokens + 1, dim)`.
    """
    newlines = newline.to(sequences.dtype).expand(len(sequences), 1, -1)  # (sequences, 1, dim)
    return torch.cat([sequences, newlines], dim=1)


def crop_letterbox(grid: Tensor, size_pixels: tuple[int, int]) -> Tensor:
    """Crop the tokens of the black bars that pad an image to the shape of its grid of tiles.

    Args:
        grid: `(dim, height, width)`, the tokens of all tiles.
        size_pixels: height and width of the image.

    Returns:
        `(dim, height, width)`, with a smaller height or a smaller width.
    """
    _, height, width = grid.shape
    rows, columns = letterbox_bars(height, width, size_pixels)
    return grid[:, rows : height - rows, columns : width - columns]  # (dim, height, width)


def _shrink(grid: Tensor, max_tokens: int) -> Tensor:
    _, height, width = grid.shape
    size = shrunk_size(height, width, max_tokens)
    if size == (height, width):
        return grid
    return F.interpolate(grid[None], size=size, mode="bilinear", align_corners=False)[0]
