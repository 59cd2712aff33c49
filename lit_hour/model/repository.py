"""Projected frame tokens -> the repository: every token of a video in order, each frame closed by a learned token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lit_hour.types import Raster, Repository

if TYPE_CHECKING:  # an attention also reads repositories whose tokens are not made
    from lit_hour.model.attention import KeysValues


@dataclass(frozen=True)
class PreparedRepository(Repository):
    """A repository that was read once for all questions: they look into `keys_values`, one for each block of MemAug.

    These are of its own tokens: who wants others in their places asks `with_tokens`, not `dataclasses.replace`.
    """

    keys_values: tuple[KeysValues, ...] = ()


def build_repository(tokens: Tensor, frame_end: Tensor, timestamps: Tensor, min_frames: int) -> Repository:
    """Lay the tokens of a video end to end.

    Args:
        tokens: `(frames, tokens, dim)`, each frame's tokens in raster order.
        frame_end: `(dim,)`, the learned vector that closes each frame.
        timestamps: `(frames,)` in seconds.
        min_frames: a shorter video is repeated up to this many; each copy has positions of its own.

    Returns:
        A repository of `(frames * (tokens + 1), dim)`, its positions counting from 0.

    Source: Hour-LLaVA (arXiv:2506.05332), memory repository.
    """
    tokens, timestamps = repeat_frames(tokens, timestamps, min_frames)  # (frames, tokens, dim), (frames,)
    laid_out = close_each(tokens, frame_end).flatten(0, 1)  # (frames * (tokens + 1), dim)
    return Repository(laid_out, *number_tokens(tokens), timestamps)


def repeat_frames(tokens: Tensor, timestamps: Tensor, min_frames: int) -> tuple[Tensor, Tensor]:
    """Tokens `(frames, tokens, dim)` and seconds `(frames,)` of a video, repeated if there are fewer than `min_frames`."""
    if len(tokens) >= min_frames:
        return tokens, timestamps
    chosen = spread_evenly(len(tokens), min_frames).to(tokens.device)  # (frames,)
    return tokens[chosen], timestamps[chosen]  # (frames, tokens, dim), (frames,)


def number_tokens(tokens: Tensor) -> tuple[Tensor, tuple[Raster]]:
    """Positions `(frames * (tokens + 1),)` from 0 and the raster of a video's tokens `(frames, tokens, dim)` and their ends."""
    num_frames, num_tokens, _ = tokens.shape
    side = math.isqrt(num_tokens)
    positions = torch.arange(num_frames * (num_tokens + 1), device=tokens.device)  # (frames * (tokens + 1),)
    return positions, (Raster(num_frames, side, side),)


def with_tokens(repository: Repository, tokens: Tensor) -> Repository:
    """The same repository with tokens `(tokens, dim)` in the places of its own, of which nothing is prepared."""
    return Repository(tokens, repository.positions, repository.rasters, repository.timestamps, repository.num_placeholders)


def close_each(runs: Tensor, end: Tensor) -> Tensor:
    """Runs of tokens `(runs, tokens, dim)`, each followed by the end token `(dim,)`: `(runs, tokens + 1, dim)`."""
    return torch.cat([runs, end.to(runs.dtype).expand(len(runs), 1, -1)], dim=1)  # (runs, tokens + 1, dim)


def spread_evenly(num_items: int, num_chosen: int) -> Tensor:
    """Which of `num_items` are taken when `num_chosen` are wanted: `(num_chosen,)`, the first and the last among them.

    numpy's linspace in double precision, then rounded down: for some lengths this differs by one from exact integer
    arithmetic, and the published model was trained with it.
    """
    return torch.from_numpy(np.floor(np.linspace(0, num_items - 1, num_chosen)).astype(np.int64))  # (num_chosen,)
