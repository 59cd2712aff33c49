"""Frames -> patch tokens of one layer of an open_clip vision tower, pooled to a grid."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.config.schema import VisionConfig
from lit_hour.errors import ConfigError

TOWERS = Path(__file__).parent / "towers"  # towers of our own, in open_clip's format


class VisionEncoder(nn.Module):
    """The part of an open_clip model that turns pictures into patch tokens, up to the layer that is read.

    What comes after that layer is dropped: it would cost memory and never learn.

    Attributes:
        size_pixels: side of the square pictures that the tower takes.
        dim: width of its tokens.
        tokens_per_frame: tokens that a frame has after pooling.

    Source: Hour-LLaVA (arXiv:2506.05332), visual encoding; open_clip's `forward_intermediates`.
    """

    tower: Any
    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: VisionConfig) -> None:
        super().__init__()
        self.grid = settings.grid
        self.chunk_frames = settings.chunk_frames
        self.tower, mean, deviation = _build_tower(settings)
        self.size_pixels = _side_pixels(self.tower)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)  # (1, 3, 1, 1)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1) * 255, persistent=False)  # (1, 3, 1, 1)
        with torch.no_grad():
            blank = torch.zeros(1, 3, self.size_pixels, self.size_pixels, dtype=torch.uint8)  # (1, 3, height, width)
            _, self.tokens_per_frame, self.dim = self._encode_chunk(blank).shape

    def forward(self, images: Tensor) -> Tensor:
        """Encode frames a chunk at a time, so that memory does not grow with the video beyond the tokens kept.

        Args:
            images: `(frames, 3, height, width)` uint8.

        Returns:
            `(frames, tokens, vision_dim)`.
        """
        return torch.cat(
            [self._encode_chunk(chunk) for chunk in images.split(self.chunk_frames)]
        )  # (frames, tokens, vision_dim)

    def _encode_chunk(self, images: Tensor) -> Tensor:
        pixels = (images.to(self.mean.dtype) - self.mean) / self.deviation  # (frames, 3, height, width)
        found = self.tower.forward_intermediates(
            pixels, indices=[-1], normalize_intermediates=False, intermediates_only=True, output_fmt="NCHW"
        )
        grid = found["image_intermediates"][0]  # (frames, vision_dim, rows, columns)
        return pool_to_grid(grid, self.grid).flatten(2).transpose(1, 2)  # (frames, tokens, vision_dim)


def pool_to_grid(tokens: Tensor, grid: int) -> Tensor:
    """Shrink a frame's square of tokens to grid x grid; a smaller square stays as it is.

    Args:
        tokens: `(frames, vision_dim, rows, columns)`.

    Returns:
        `(frames, vision_dim, grid, grid)`: bilinear, half-pixel centres, no antialiasing.

    Source: reference arithmetic of Hour-LLaVA, 27 x 27 -> 8 x 8.
    """
    if max(tokens.shape[-2:]) <= grid:
        return tokens
    return F.interpolate(tokens, size=(grid, grid), mode="bilinear", align_corners=False)  # (frames, vision_dim, grid, grid)


def _build_tower(settings: VisionConfig) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """The tower cut off behind the layer that is read, and the mean and deviation of the colours it was trained with."""
    open_clip.add_model_config(TOWERS)
    _check_names(settings)
    with _without_warnings():  # random weights are what was asked for, or others are loaded over them
        whole = open_clip.create_model(
            settings.name, pretrained=settings.weights or None, load_weights=bool(settings.weights), pretrained_text=False
        )
    mean, deviation = colours_of(settings, whole)
    return _cut_behind(whole.visual, settings), mean, deviation


@contextmanager
def _without_warnings() -> Iterator[None]:
    """open_clip logs to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _check_names(settings: VisionConfig) -> None:
    """Refuse a tower or weights that open_clip does not have, before anything is built."""
    if settings.name not in open_clip.list_models():
        raise ConfigError(
            f"model.vision.name={settings.name!r} is no model of open_clip:"
            " python -c 'import open_clip; print(open_clip.list_models())'"
        )
    tags = open_clip.list_pretrained_tags_by_model(settings.name)
    if settings.weights and settings.weights not in tags and not Path(settings.weights).is_file():
        raise ConfigError(
            f"model.vision.weights={settings.weights!r} is neither a file nor a pretrained tag of {settings.name},"
            f" which has: {', '.join(tags) or 'none'}"
        )


def colours_of(settings: VisionConfig, whole: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of red, green and blue, from 0 to 1, that the tower was trained with.

    Weights in a file do not say, and open_clip then takes CLIP's: those published for the same tower are nearer.
    """
    tags = open_clip.list_pretrained_tags_by_model(settings.name)
    if tags:
        colours = open_clip.get_pretrained_cfg(settings.name, settings.weights if settings.weights in tags else tags[0])
    else:
        colours = open_clip.get_model_preprocess_cfg(whole)
    return tuple(colours["mean"]), tuple(colours["std"])


def _cut_behind(tower: Any, settings: VisionConfig) -> nn.Module:
    """Drop what comes after the layer that is read."""
    trunk = tower.trunk if isinstance(tower, open_clip.timm_model.TimmModel) else tower
    if not hasattr(trunk, "prune_intermediate_layers"):
        raise ConfigError(f"model.vision.name={settings.name!r}: this tower has no layers of patch tokens to read")
    try:
        trunk.prune_intermediate_layers([settings.layer], prune_norm=True, prune_head=True)
    except AssertionError as error:
        raise ConfigError(f"model.vision.layer={settings.layer}: {settings.name} has fewer layers ({error})") from error
    if trunk is not tower:
        tower.head = nn.Identity()
    return tower


def _side_pixels(tower: Any) -> int:
    height, width = open_clip.utils.to_2tuple(tower.image_size)
    if height != width:
        raise ConfigError(f"the vision tower takes pictures of {height} x {width} pixels: only square ones are supported")
    return int(height)
