"""Which tokens of the repository the language model is given: a share of each grid's tokens, and of a video's frames.

Everything here is indices into the repository; MemAug brings back what was forgotten. A new way to choose is a function
and its line in `SPATIAL` or `TEMPORAL` (and its name in the setting).

Source: Hour-LLaVA (arXiv:2506.05332), forgetting mechanism.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lit_hour.config.model import MemAugConfig
from lit_hour.model.memory_repository import AnyRepository, TokenGrid, linspace_indices


def forget(
    repository: AnyRepository,
    question: Tensor,
    spatial: str,
    settings: MemAugConfig,
    generator: Generator,
) -> tuple[Tensor, ...]:
    """Places in the repository of the tokens that survive, with their end tokens: a block for each placeholder.

    Args:
        question: `(tokens, dim)` embeddings of the text that MemAug may see.
        spatial: a name in `SPATIAL`.
        generator: on the CPU; what is drawn is drawn from it.

    Returns:
        `(kept,)` for each placeholder; within a raster the places rise.
    """
    blocks, start = [], 0
    for raster in repository.grids:
        kept = SPATIAL[spatial](raster, settings.spatial_keep_ratio, generator)  # (count, kept)
        places = _with_ends(raster, kept)  # (count, kept + ends)
        if repository.num_frames:
            frames = _surviving_frames(repository, raster, question, settings)  # (kept frames,)
            places = places[frames]  # (kept frames, kept + ends)
        blocks.append((start + places).flatten().to(repository.positions.device))  # (kept,)
        start += raster.count * raster.num_tokens
    per_placeholder = len(blocks) // repository.num_placeholders
    return tuple(
        torch.cat(blocks[first : first + per_placeholder])  # (kept,)
        for first in range(0, len(blocks), per_placeholder)
    )


def num_kept_frames(num_frames: int, keep: float, maximum: int) -> int:
    """How many frames survive: a share of them, one at least, `maximum` at most."""
    return min(
        maximum, max(1, math.floor(num_frames * keep + 1e-9))
    )  # a keep of 1/3 is a little less than a third


def spatial_uniform(raster: TokenGrid, keep: float, generator: Generator) -> Tensor:
    """Every n-th row and column, n = 1 / sqrt(keep): `(count, kept)`."""
    stride = round(keep**-0.5)
    rows, columns = (
        torch.arange(0, raster.rows, stride),
        torch.arange(0, raster.columns, stride),
    )  # (rows,), (columns,)
    return (
        (rows[:, None] * raster.columns + columns).flatten().expand(raster.count, -1)
    )  # (count, kept)


def spatial_random(raster: TokenGrid, keep: float, generator: Generator) -> Tensor:
    """ceil(keep * tokens) of them drawn for each grid alone, rising: `(count, kept)`."""
    num_kept = math.ceil(keep * raster.num_patch_tokens)
    draws = torch.rand(
        raster.count, raster.num_patch_tokens, generator=generator
    )  # (count, tokens)
    return draws.topk(num_kept, dim=1, largest=False).indices.sort(dim=1).values  # (count, kept)


def spatial_none(raster: TokenGrid, keep: float, generator: Generator) -> Tensor:
    """All tokens: `(count, tokens)`."""
    return torch.arange(raster.num_patch_tokens).expand(raster.count, -1)  # (count, tokens)


def temporal_uniform(frames: Tensor, question: Tensor, num_kept: int) -> Tensor:
    """Frames spread over the video, the first and the last among them: `(kept,)`."""
    return linspace_indices(len(frames), num_kept)  # (kept,)


def temporal_keyframe(frames: Tensor, question: Tensor, num_kept: int) -> Tensor:
    """Frames least similar to the ones before and after them: `(kept,)`."""
    if num_kept == len(frames):
        return torch.arange(num_kept)  # (frames,)
    means = frames.mean(dim=1, dtype=torch.float32)  # (frames, dim)
    likeness = F.cosine_similarity(means[:-1], means[1:], dim=-1)  # (frames - 1,)
    before, after = (
        torch.cat([likeness[:1], likeness]),
        torch.cat([likeness, likeness[-1:]]),
    )  # (frames,), (frames,)
    return (before + after).topk(num_kept, largest=False).indices.sort().values  # (kept,)


def temporal_question(frames: Tensor, question: Tensor, num_kept: int) -> Tensor:
    """Frames whose mean is most similar to the mean of the question's embeddings: `(kept,)`."""
    means = frames.mean(dim=1, dtype=torch.float32)  # (frames, dim)
    likeness = F.cosine_similarity(
        means, question.mean(dim=0, dtype=torch.float32)[None], dim=-1
    )  # (frames,)
    return likeness.topk(num_kept).indices.sort().values  # (kept,)


def temporal_none(frames: Tensor, question: Tensor, num_kept: int) -> Tensor:
    """All frames, however many: `(frames,)`."""
    return torch.arange(len(frames))  # (frames,)


SPATIAL: dict[str, Callable[[TokenGrid, float, Generator], Tensor]] = {
    "uniform": spatial_uniform,
    "random": spatial_random,
    "none": spatial_none,
}
TEMPORAL: dict[
    str, Callable[[Tensor, Tensor, int], Tensor]
] = {  # each is given `(frames, tokens, dim)`
    "uniform": temporal_uniform,
    "keyframe": temporal_keyframe,
    "question": temporal_question,
    "none": temporal_none,
}
CONTENT_BASED = (
    "keyframe",
    "question",
)  # of `TEMPORAL`; the others choose by the number of frames alone


def _with_ends(raster: TokenGrid, kept: Tensor) -> Tensor:
    """Raster places `(count, kept)` -> places among the raster's tokens and end tokens `(count, kept + ends)`."""
    starts = torch.arange(raster.count)[:, None] * raster.num_tokens  # (count, 1)
    if raster.newline == "none":
        return starts + kept  # (count, kept)
    if raster.newline == "grid":
        return starts + F.pad(kept, (0, 1), value=raster.num_patch_tokens)  # (count, kept + 1)
    rows, columns = kept // raster.columns, kept % raster.columns  # (1, kept), (1, kept)
    ends = (
        rows.unique()[None] * (raster.columns + 1) + raster.columns
    )  # (1, rows that kept a token)
    return (
        torch.cat([rows * (raster.columns + 1) + columns, ends], dim=1).sort(dim=1).values
    )  # (1, kept + ends)


@torch.no_grad()
def _surviving_frames(
    repository: AnyRepository, raster: TokenGrid, question: Tensor, settings: MemAugConfig
) -> Tensor:
    """Rising numbers of the frames of a video that survive: `(kept,)`."""
    num_kept = num_kept_frames(raster.count, settings.temporal_keep_ratio, settings.max_kept_frames)
    if isinstance(repository.tokens, Tensor):
        frames = repository.tokens.view(raster.count, raster.num_tokens, -1)[
            :, :-1
        ]  # (frames, tokens, dim)
    else:
        frames = repository.positions.new_empty(
            raster.count, 0, 0
        )  # (frames, 0, 0) not looked at: see `CONTENT_BASED`
    return TEMPORAL[settings.temporal_forgetting](frames, question, num_kept).cpu()  # (kept,)
