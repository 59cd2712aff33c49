"""Projected frame tokens -> the repository: every token of a video in order, each frame closed by a learned token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_hour.model.attention import KeysValues
from lit_hour.types import Raster, Repository


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
    if len(tokens) < min_frames:
        chosen = spread_evenly(len(tokens), min_frames).to(tokens.device)  # (frames,)
        tokens, timestamps = tokens[chosen], timestamps[chosen]  # (frames, tokens, dim), (frames,)
    laid_out = close_each(tokens, frame_end).flatten(0, 1)  # (frames * (tokens + 1), dim)
    positions = torch.arange(len(laid_out), device=tokens.device)  # (frames * (tokens + 1),)
    side = math.isqrt(tokens.shape[1])
    return Repository(laid_out, positions, (Raster(len(tokens), side, side),), timestamps)


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
