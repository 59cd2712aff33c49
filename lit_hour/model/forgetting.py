"""Which tokens of the repository the language model is given: a share of each frame's tokens in a share of the frames.

Everything here is indices into the repository; MemAug brings back what was forgotten.

Source: Hour-LLaVA (arXiv:2506.05332), forgetting mechanism.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from lit_hour.config.schema import MemoryConfig
from lit_hour.model.repository import spread_evenly
from lit_hour.types import Repository


def forget(repository: Repository, settings: MemoryConfig, generator: Generator | None) -> Tensor:
    """Places in the repository of the tokens that survive, frame by frame, each frame with its frame-end token.

    Args:
        generator: a random choice inside each frame, drawn on the CPU, when given; every n-th row and column when None.

    Returns:
        `(query,)` rising places; they are also the rotary positions of these tokens.
    """
    num_frames, per_frame = repository.num_frames, repository.tokens_per_frame
    if generator is None:
        kept = spatial_uniform(math.isqrt(per_frame), settings.spatial_keep).expand(num_frames, -1)  # (frames, kept)
    else:
        kept = spatial_random(num_frames, per_frame, settings.spatial_keep, generator)  # (frames, kept)
    ends = torch.full((num_frames, 1), per_frame)  # (frames, 1)
    frame_starts = torch.arange(num_frames)[:, None] * (per_frame + 1)  # (frames, 1)
    places = torch.cat([kept, ends], dim=1) + frame_starts  # (frames, kept + 1)
    frames = temporal_uniform(num_frames, settings.temporal_keep, settings.max_query_frames)  # (frames,)
    return places[frames].flatten().to(repository.tokens.device)  # (query,)


def spatial_uniform(grid: int, keep: float) -> Tensor:
    """Raster places of every n-th row and column of a grid, n = 1 / sqrt(keep): `(kept,)`."""
    stride = round(keep**-0.5)
    lines = torch.arange(0, grid, stride)  # (rows,)
    return (lines[:, None] * grid + lines).flatten()  # (kept,)


def spatial_random(num_frames: int, tokens_per_frame: int, keep: float, generator: Generator) -> Tensor:
    """Raster places of ceil(keep * tokens) tokens drawn for each frame alone, rising: `(frames, kept)`."""
    num_kept = math.ceil(keep * tokens_per_frame)
    draws = torch.rand(num_frames, tokens_per_frame, generator=generator)  # (frames, tokens)
    return draws.topk(num_kept, dim=1, largest=False).indices.sort(dim=1).values  # (frames, kept)


def temporal_uniform(num_frames: int, keep: float, maximum: int) -> Tensor:
    """Frames that survive, spread over the video with its first and last among them: `(kept,)`."""
    num_kept = min(maximum, max(1, math.floor(num_frames * keep + 1e-9)))  # a keep of 1/3 is a little less than a third
    return spread_evenly(num_frames, num_kept)  # (kept,)
