"""Pictures -> patch tokens of one layer of an open_clip vision tower, pooled to a grid where they are frames of a video."""

from __future__ import annotations

import logging
import math
import textwrap
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError

from lit_hour.config.model import VisionConfig
from lit_hour.errors import ConfigError, InputError, WeightsError
from lit_hour.io.hashing import hash_weights
from lit_hour.types import Features, Frames, TiledImage, Visual

TOWER_CONFIGS = Path(__file__).parent / "towers"  # towers of our own, in open_clip's format
LONGEST_REASON_CHARACTERS = 400  # torch names every weight, each on a line


class VisionEncoder(nn.Module):
    """The part of an open_clip model that turns pictures into patch tokens, up to the layer that is read.

    What comes after that layer is dropped: it would cost memory and never learn. The weights are random until
    `load_pretrained` or `load_state_dict` brings others.

    Attributes:
        size_pixels: side of the square pictures that the tower takes.
        dim: width of its tokens.
        tokens_per_image: tokens of the tower's whole grid.
        tokens_per_frame: tokens that a frame of a video has after pooling.

    Raises:
        ConfigError: open_clip has no such tower, or it has no such layer or no square of tokens.

    Source: Hour-LLaVA (arXiv:2506.05332), visual encoding; open_clip's `forward_intermediates`.
    """

    tower: Any

    def __init__(self, settings: VisionConfig) -> None:
        super().__init__()
        self.config = settings
        open_clip.add_model_config(TOWER_CONFIGS)
        _check_name(settings.name)
        whole = _build(settings.name)
        self.mean, self.std = color_mean_std(settings, whole)
        self.tower = _cut_behind(whole.visual, settings)
        if settings.tanh_gelu:
            _use_tanh_gelu(self.tower)
        self.image_size = _side_pixels(self.tower)
        with torch.no_grad():
            blank = torch.zeros(
                1, 3, self.image_size, self.image_size, dtype=torch.uint8
            )  # (1, 3, height, width)
            tokens = self._encode(blank)  # (1, tokens, vision_dim)
            _, self.tokens_per_image, self.dim = tokens.shape
            self.tokens_per_frame = self.pool(tokens).shape[1]

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of the tower, in order.

        Raises:
            ConfigError: it is not made of blocks.
        """
        trunk = self.tower.trunk if _is_of_timm(self.tower) else self.tower
        blocks = getattr(trunk, "blocks", None) or getattr(
            getattr(trunk, "transformer", None), "resblocks", None
        )
        if blocks is None:
            raise ConfigError(
                f"model.vision.name={self.config.name!r}: this tower is not made of blocks"
            )
        return list(blocks)

    def reset_nonpersistent_buffers(self) -> None:
        """Make again what no weights bring: buffers that are not saved, which few towers have."""
        unsaved = dict(self.named_buffers()).keys() - self.state_dict().keys()
        made = dict(VisionEncoder(self.config).named_buffers()) if unsaved else {}
        for name in unsaved:
            self.get_buffer(name).copy_(made[name])

    def load_pretrained(self, weights: str) -> None:
        """Take the weights of one of open_clip's pretrained tags, or of a file of open_clip's.

        Raises:
            ConfigError: there is no such tag and no such file.
            WeightsError: the file is damaged or belongs to another model, or the tag cannot be downloaded.
        """
        check_weights(self.config.name, weights)
        try:
            whole = _build(self.config.name, weights)
        except (RuntimeError, SafetensorError, UnpicklingError) as error:
            reasons = textwrap.shorten(str(error), LONGEST_REASON_CHARACTERS)
            raise WeightsError(
                f"model.vision.weights={weights!r} does not fit {self.config.name}: {reasons}"
            ) from error
        state = _cut_behind(whole.visual, self.config).state_dict()
        self.tower.load_state_dict(state, assign=next(self.tower.parameters()).is_meta)

    def forward(self, images: Tensor, pooled: bool = True) -> Tensor:
        """Encode pictures a chunk at a time, so that memory does not grow with the video beyond the tokens kept.

        The tower learns only from calls with at most `max_learning_frames` pictures, whose activations are all kept.

        Args:
            images: `(frames, 3, height, width)` uint8.
            pooled: as the frames of a video are; false for the tower's whole grid, as single pictures are read.

        Returns:
            `(frames, tokens, vision_dim)`, as many tokens as `tokens_per_frame` or `tokens_per_image` says.
        """
        is_learning = torch.is_grad_enabled() and len(images) <= self.config.max_trainable_frames
        with torch.set_grad_enabled(is_learning):
            chunks = (
                self._encode(chunk) for chunk in images.split(self.config.encode_batch_size)
            )  # (chunk, tokens, vision_dim)
            tokens = torch.cat(
                [self.pool(chunk) if pooled else chunk for chunk in chunks]
            )  # (frames, tokens, vision_dim)
        return tokens if is_learning else self._with_zero_gradient(tokens, images[:1])

    def forward_many(self, visuals: Sequence[Visual]) -> list[Tensor]:
        """The tokens of several videos and pictures, `(frames, tokens, vision_dim)` for each; stored features are pooled.

        A sharded tower is gathered once for all of them, so that ranks with longer and with shorter videos stay in step.
        """
        return [self._encode_visual(visual) for visual in visuals]

    def _encode_visual(self, visual: Visual) -> Tensor:
        if isinstance(visual, Features):
            tokens = self.pool(visual.tokens)  # (frames, tokens, vision_dim)
            side = self.image_size
            return self._with_zero_gradient(
                tokens, tokens.new_zeros(1, 3, side, side)
            )  # (frames, tokens, vision_dim)
        if isinstance(visual, Frames):
            return self.forward(visual.images)  # (frames, tokens, vision_dim)
        images = (
            visual.tiles if isinstance(visual, TiledImage) else visual.images
        )  # (images, 3, height, width)
        return self.forward(images, pooled=False)  # (images, tokens, vision_dim)

    def _with_zero_gradient(self, tokens: Tensor, image: Tensor) -> Tensor:
        """Tokens from which a tower that learns gets a gradient of zero: each rank has one for every weight.

        Args:
            tokens: `(frames, tokens, vision_dim)`, and so is what comes back.
            image: `(1, 3, height, width)`, any.
        """
        if torch.is_grad_enabled() and next(self.tower.parameters()).requires_grad:
            return tokens + 0 * self._encode(image).mean()  # (frames, tokens, vision_dim)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Shrink each frame's square of tokens to the grid; a smaller square stays as it is.

        Args:
            tokens: `(frames, tokens, vision_dim)`, in raster order.

        Returns:
            `(frames, grid * grid, vision_dim)`: bilinear, half-pixel centres, no antialiasing.

        Raises:
            InputError: the tokens are more than the grid has, and no square.

        Source: reference arithmetic of Hour-LLaVA, 27 x 27 -> 8 x 8.
        """
        grid, num_tokens = self.config.grid, tokens.shape[1]
        if num_tokens <= grid * grid:
            return tokens
        side = math.isqrt(num_tokens)
        if side * side != num_tokens:
            raise InputError(
                f"{num_tokens} tokens per frame are no square and cannot be pooled to {grid} x {grid}:"
                f" features need a square number of tokens, or at most {grid * grid}"
            )
        square = tokens.unflatten(1, (side, side)).permute(
            0, 3, 1, 2
        )  # (frames, vision_dim, rows, columns)
        pooled = F.interpolate(
            square, (grid, grid), mode="bilinear", align_corners=False
        )  # (frames, vision_dim, grid, grid)
        return pooled.flatten(2).transpose(1, 2)  # (frames, grid * grid, vision_dim)

    def digest(self) -> str:
        """SHA-256 of the weights, as `hash_weights` has it, and of the colours."""
        return hash_weights(self.tower.state_dict(), repr((self.mean, self.std)).encode())

    def _encode(self, images: Tensor) -> Tensor:
        dtype = next(self.tower.parameters()).dtype
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)  # (3, 1, 1)
        deviation = torch.tensor(self.std, device=images.device).view(3, 1, 1)  # (3, 1, 1)
        pixels = ((images / 255 - mean) / deviation).to(dtype)  # (frames, 3, height, width)
        found = self.tower.forward_intermediates(
            pixels,
            indices=[-1],
            normalize_intermediates=False,
            intermediates_only=True,
            output_fmt="NLC",
        )
        tokens: Tensor = found["image_intermediates"][0]  # (frames, tokens, vision_dim)
        return tokens


def check_weights(name: str, weights: str) -> None:
    """Refuse what `load_pretrained` cannot load, before anything is built.

    Raises:
        ConfigError: `weights` is neither a pretrained tag of the tower nor a file.
        WeightsError: the file is neither one of safetensors nor one of torch's.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights in tags:
        return
    if not Path(weights).is_file():
        raise ConfigError(
            f"model.vision.weights={weights!r} is neither a file nor a pretrained tag of {name},"
            f" which has: {', '.join(tags) or 'none'}"
        )
    if Path(weights).suffix != ".safetensors" and not zipfile.is_zipfile(weights):
        raise WeightsError(
            f"model.vision.weights={weights!r} is no .safetensors file, and no whole file of torch.save"
        )


def color_mean_std(
    settings: VisionConfig, whole: Any
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of red, green and blue, from 0 to 1, that the tower was trained with.

    Weights in a file do not say: those published for the same tower count, or else those that timm notes for its towers.
    What is left then is open_clip's own, which are CLIP's.
    """
    tags = open_clip.list_pretrained_tags_by_model(settings.name)
    if tags:
        colours = open_clip.get_pretrained_cfg(
            settings.name, settings.weights if settings.weights in tags else tags[0]
        )
    elif _is_of_timm(whole.visual):
        colours = whole.visual.trunk.default_cfg
    else:
        colours = open_clip.get_model_preprocess_cfg(whole)
    return tuple(colours["mean"]), tuple(colours["std"])


def _check_name(name: str) -> None:
    if name not in open_clip.list_models():
        raise ConfigError(
            f"model.vision.name={name!r} is no model of open_clip: python -c 'import open_clip; print(open_clip.list_models())'"
        )


def _build(name: str, weights: str = "") -> Any:
    """A whole model of open_clip, with random weights or pretrained ones, where torch makes new tensors by default."""
    with (
        _without_warnings()
    ):  # random weights are what was asked for, or others are loaded over them
        return open_clip.create_model(
            name,
            pretrained=weights or None,
            load_weights=bool(weights),
            pretrained_text=False,
            device=torch.get_default_device(),
        )


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


def _is_of_timm(tower: Any) -> bool:
    return isinstance(tower, open_clip.timm_model.TimmModel)


def _cut_behind(tower: Any, settings: VisionConfig) -> Any:
    """Drop what comes after the layer that is read."""
    trunk = tower.trunk if _is_of_timm(tower) else tower
    if not hasattr(trunk, "prune_intermediate_layers"):
        raise ConfigError(
            f"model.vision.name={settings.name!r}: this tower has no layers of patch tokens to read"
        )
    try:
        trunk.prune_intermediate_layers([settings.layer], prune_norm=True, prune_head=True)
    except AssertionError as error:
        raise ConfigError(
            f"model.vision.layer={settings.layer}: {settings.name} has fewer layers ({error})"
        ) from error
    if trunk is not tower:
        tower.head = nn.Identity()
    return tower


def _use_tanh_gelu(tower: nn.Module) -> None:
    for module in tower.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"


def _side_pixels(tower: Any) -> int:
    height, width = open_clip.utils.to_2tuple(tower.image_size)
    if height != width:
        raise ConfigError(
            f"the vision tower takes pictures of {height} x {width} pixels: only square ones are supported"
        )
    return int(height)
