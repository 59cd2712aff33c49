"""Forgetting: which tokens of the repository the language model gets.

A share of each grid's tokens is kept, and of a video a share of its frames. Everything here is an
index into the repository; MemAug brings back what was forgotten. A new method is a function and its
entry in `SPATIAL` or `CONTENT_BASED`, and its name in the setting.

Source: Hour-LLaVA (arXiv:2506.05332), forgetting mechanism.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lit_hour.config.model import MemAugConfig, num_kept_frames
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.model.memory_repository import MemoryRepository, TokenGrid


def choose_kept_tokens(
    repository: MemoryRepository,
    question: Tensor,
    config: MemAugConfig,
    generator: Generator | None,
    num_placeholders: int = 1,
) -> list[Tensor]:
    """Choose the tokens that forgetting keeps, with the newline tokens that follow them.

    Args:
        repository: of a video or of images.
        question: `(question, dim)`, the embeddings of the text that MemAug may see.
        config: names and ratios of the methods.
        generator: on the CPU, for the random draws of training. None for the forgetting of
            validation and answers, which is the same each time.
        num_placeholders: in a text about a video; each gets the tokens of consecutive kept frames.
            Images have a placeholder each.

    Returns:
        Indices `(kept,)` in the repository for each placeholder, ascending within a grid.

    Raises:
        ValueError: the text has more placeholders than the video has kept frames.
    """
    name = config.spatial_forgetting
    if generator is None:
        name, generator = config.eval_spatial_forgetting, Generator().manual_seed(0)
    kept, start = [], 0
    for grid in repository.grids:
        mask = SPATIAL[name](grid, config.spatial_keep_ratio, generator)  # (count, rows, columns)
        if grid.newline == "grid":
            mask = mask.flatten(1)[:, None]  # (count, 1, tokens): a grid is one line
        if grid.newline != "none":
            mask = torch.cat([mask, mask.any(dim=2, keepdim=True)], dim=2)  # with newlines
        indices = start + mask.flatten().nonzero().view(grid.count, -1)  # (count, kept)
        if len(repository.timestamps):
            indices = indices[kept_frames(repository, question, config)]  # (kept frames, kept)
        kept.append(indices.to(repository.positions.device))  # (count or kept frames, kept)
        start += mask.numel()
    if repository.num_frames:
        (frames,) = kept  # (kept frames, kept)
        if num_placeholders > len(frames):
            raise ValueError(
                f"A text with {num_placeholders} placeholders needs as many kept frames, not"
                f" {len(frames)}."
            )
        return [group.flatten() for group in frames.tensor_split(num_placeholders)]  # (kept,) each
    num_grids = len(kept) // repository.num_placeholders  # of each placeholder
    flat = [indices.flatten() for indices in kept]  # (kept,) each
    return [torch.cat(flat[first : first + num_grids]) for first in range(0, len(flat), num_grids)]


@torch.no_grad()
def kept_frames(repository: MemoryRepository, question: Tensor, config: MemAugConfig) -> Tensor:
    """Choose the frames of a video that are kept, at least one: ascending indices `(kept,)`."""
    num_frames = len(repository.timestamps)
    if config.temporal_forgetting == "none":
        return torch.arange(num_frames)
    num_kept = num_kept_frames(num_frames, config)
    if config.temporal_forgetting == "uniform":
        return torch.tensor(evenly_spaced_indices(num_frames, num_kept, "linspace"))
    frames = repository.tokens.unflatten(0, (num_frames, -1))[:, :-1]  # (frames, tokens, dim)
    return CONTENT_BASED[config.temporal_forgetting](frames, question, num_kept).cpu()


def keep_uniform(grid: TokenGrid, keep_ratio: float, generator: Generator) -> Tensor:
    """Keep every n-th row and column, n = 1 / sqrt(keep_ratio): `(count, rows, columns)` bool."""
    stride = round(keep_ratio**-0.5)
    mask = torch.zeros(grid.count, grid.rows, grid.columns, dtype=torch.bool)
    mask[:, ::stride, ::stride] = True
    return mask


def keep_random(grid: TokenGrid, keep_ratio: float, generator: Generator) -> Tensor:
    """Draw ceil(keep_ratio * tokens) of the tokens of each grid: `(count, rows, columns)` bool."""
    draws = torch.rand(grid.count, grid.rows * grid.columns, generator=generator)
    num_kept = math.ceil(keep_ratio * draws.shape[1])
    kept = draws.topk(num_kept, dim=1, largest=False).indices  # (count, kept)
    mask = torch.zeros_like(draws, dtype=torch.bool).scatter(1, kept, True)  # (count, tokens)
    return mask.view(grid.count, grid.rows, grid.columns)


def keep_all(grid: TokenGrid, keep_ratio: float, generator: Generator) -> Tensor:
    """Keep all tokens: `(count, rows, columns)` bool."""
    return torch.ones(grid.count, grid.rows, grid.columns, dtype=torch.bool)


def keyframes(frames: Tensor, question: Tensor, num_kept: int) -> Tensor:
    """Return the frames that are least similar to those before and after them.

    Args:
        frames: `(frames, tokens, dim)`.
        question: not used.
        num_kept: number of frames to keep.

    Returns:
        Ascending indices `(kept,)`.
    """
    if num_kept == len(frames):
        return torch.arange(num_kept)
    means = frames.mean(dim=1, dtype=torch.float32)  # (frames, dim)
    similarity = F.cosine_similarity(means[:-1], means[1:], dim=-1)  # (frames - 1,)
    before = torch.cat([similarity[:1], similarity])  # (frames,)
    after = torch.cat([similarity, similarity[-1:]])  # (frames,)
    return (before + after).topk(num_kept, largest=False).indices.sort().values


def question_frames(frames: Tensor, question: Tensor, num_kept: int) -> Tensor:
    """Return the frames with the mean token most similar to the mean of the question.

    Args:
        frames: `(frames, tokens, dim)`.
        question: `(question, dim)`.
        num_kept: number of frames to keep.

    Returns:
        Ascending indices `(kept,)`.
    """
    means = frames.mean(dim=1, dtype=torch.float32)  # (frames, dim)
    mean_question = question.mean(dim=0, dtype=torch.float32)[None]  # (1, dim)
    similarity = F.cosine_similarity(means, mean_question, dim=-1)  # (frames,)
    return similarity.topk(num_kept).indices.sort().values


SPATIAL: dict[str, Callable[[TokenGrid, float, Generator], Tensor]] = {
    "uniform": keep_uniform,
    "random": keep_random,
    "none": keep_all,
}
CONTENT_BASED: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {  # temporal methods that
    "keyframe": keyframes,  # look at the tokens; the others need only the number of frames
    "question": question_frames,
}
