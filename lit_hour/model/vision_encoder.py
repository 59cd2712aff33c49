"""The vision encoder, and the projector of its tokens to the width of the language model.

Entry points: `VisionEncoder`, the patch tokens of one layer of an open_clip tower, pooled for video
frames, and `Projector`.
"""

from __future__ import annotations

import logging
import math
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from safetensors import SafetensorError
from torch import Tensor, nn
from torch._weights_only_unpickler import UnpicklingError

from lit_hour.config.model import VisionConfig
from lit_hour.errors import ConfigError, InputError, WeightsError, download_hint
from lit_hour.model.conv_tower import EfficientNet  # (importing it registers our towers with timm)
from lit_hour.model.weights_hash import hash_weights
from lit_hour.types import Features, Frames, ImageSet, TiledImage, Visual

# our own towers, in the format of open_clip; weights have the name of their tower
TOWER_CONFIGS = Path(__file__).parent / "towers"
MAX_REASON_LENGTH = 400  # characters; torch lists every weight that does not fit


class VisionEncoder(nn.Module):
    """The layers of an open_clip vision tower up to the configured one.

    The later layers are removed. The weights are random until `load_pretrained` or
    `load_state_dict`.

    Attributes:
        image_size: height and width of the images that the tower takes, in pixels.
        dim: width of the tokens.
        tokens_per_image: number of tokens of the tower's whole grid.
        tokens_per_frame: number of tokens of a video frame, after pooling.

    Raises:
        ConfigError: open_clip has no such tower, or the tower has no such layer or no square grid.

    Source: Hour-LLaVA (arXiv:2506.05332), visual encoding; open_clip's `forward_intermediates`.
    """

    tower: Any

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        open_clip.add_model_config(TOWER_CONFIGS)
        model = _build(config.name)
        self.mean, self.std = color_mean_std(config, model)
        self.tower = _truncate(model.visual, config)
        height, width = open_clip.utils.to_2tuple(self.tower.image_size)
        if height != width:
            raise ConfigError(
                f"The vision tower takes images of {height} x {width} pixels. Only square images"
                " are supported."
            )
        self.image_size = int(height)
        self.train()  # Lightning keeps the modes that it finds and does not call it
        with torch.no_grad():
            blank = torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8)
            (tokens,) = self([ImageSet(blank)])  # (1, tokens, vision_dim)
            _, self.tokens_per_image, self.dim = tokens.shape
            self.tokens_per_frame = self.pool(tokens).shape[1]

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of the tower, in order.

        Raises:
            ConfigError: the tower has no blocks.
        """
        trunk = self.tower.trunk if isinstance(self.tower, TimmModel) else self.tower
        transformer = getattr(trunk, "transformer", None)
        blocks = (
            getattr(trunk, "blocks", None)
            or getattr(transformer, "resblocks", None)
            or getattr(trunk, "stages", None)  # of a convolutional tower
        )
        if blocks is None:
            raise ConfigError(f"model.vision.name={self.config.name!r}: this tower has no blocks.")
        return list(blocks)

    def train(self, mode: bool = True) -> VisionEncoder:
        """Set the mode of all layers but batch norms, which keep their running statistics.

        So a frame has the same tokens in training and answers, whatever the other frames are.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def reset_nonpersistent_buffers(self) -> None:
        """Compute the buffers that a checkpoint does not contain, which few towers have."""
        missing = dict(self.named_buffers()).keys() - self.state_dict().keys()
        buffers = dict(VisionEncoder(self.config).named_buffers()) if missing else {}
        for name in missing:
            self.get_buffer(name).copy_(buffers[name])

    def load_pretrained(self, weights: str) -> None:
        """Load the weights of a pretrained tag of open_clip, or of a file in its format.

        Raises:
            ConfigError: there is no such tag and no such file.
            WeightsError: the file is corrupt or for another model, or the download failed.
        """
        check_weights(self.config.name, weights)
        try:
            model = _build(self.config.name, _find_weights(weights))
        except (RuntimeError, SafetensorError, UnpicklingError) as error:
            reason = textwrap.shorten(str(error), MAX_REASON_LENGTH)
            raise WeightsError(
                f"model.vision.weights={weights!r} does not fit {self.config.name}: {reason}"
            ) from error
        state = _truncate(model.visual, self.config).state_dict()
        self.tower.load_state_dict(state, assign=next(self.tower.parameters()).is_meta)

    def open_clip_state_dict(self) -> dict[str, Tensor]:
        """Return weights that `load_pretrained` loads; those that the encoder lacks are random."""
        state: dict[str, Tensor] = _build(self.config.name).state_dict()
        state.update({f"visual.{name}": value for name, value in self.tower.state_dict().items()})
        return state

    def forward(self, visuals: Sequence[Visual]) -> list[Tensor]:
        """Encode videos and images.

        With FSDP the tower is gathered once for all of them, so ranks with longer and with shorter
        videos stay in step.

        Args:
            visuals: frames and stored features are pooled, images are not.

        Returns:
            `(frames, tokens, vision_dim)` for each.
        """
        encoded = []
        for visual in visuals:
            if isinstance(visual, Features):
                tokens = self.pool(visual.tokens)  # (frames, tokens, vision_dim)
                side = self.image_size
                tokens = self._with_zero_gradient(tokens, tokens.new_zeros(1, 3, side, side))
            elif isinstance(visual, Frames):
                tokens = self.encode_images(visual.images)  # (frames, tokens, vision_dim)
            else:
                images = visual.tiles if isinstance(visual, TiledImage) else visual.images
                tokens = self.encode_images(images, pooled=False)  # (images, tokens, vision_dim)
            encoded.append(tokens)
        return encoded

    def encode_images(self, images: Tensor, pooled: bool = True) -> Tensor:
        """Encode images in chunks, so that activations do not grow with the number of images.

        The tower is trained only by calls with at most `max_trainable_frames` images, for which all
        activations are kept.

        Args:
            images: `(frames, 3, image_size, image_size)` uint8 RGB.
            pooled: pool to the grid of video frames; false for the tower's whole grid.

        Returns:
            `(frames, tokens, vision_dim)`, with `tokens_per_frame` or `tokens_per_image` tokens.
        """
        is_training = torch.is_grad_enabled() and len(images) <= self.config.max_trainable_frames
        with torch.set_grad_enabled(is_training):
            chunks = (
                self._encode_chunk(chunk) for chunk in images.split(self.config.encode_batch_size)
            )  # (chunk, tokens, vision_dim)
            tokens = torch.cat([self.pool(chunk) if pooled else chunk for chunk in chunks])
        if torch.is_grad_enabled() and not is_training:
            return self._with_zero_gradient(tokens, images[:1])
        return tokens

    def _with_zero_gradient(self, tokens: Tensor, image: Tensor) -> Tensor:
        """Add a gradient of zero for each weight of a trainable tower, which every rank must have.

        Args:
            tokens: `(frames, tokens, vision_dim)`; returned with the same values.
            image: `(1, 3, height, width)`, any image.
        """
        if torch.is_grad_enabled() and next(self.tower.parameters()).requires_grad:
            return tokens + 0 * self._encode_chunk(image).mean()
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool the square of tokens of each frame to the grid, unless it is smaller.

        Args:
            tokens: `(frames, tokens, vision_dim)`, in raster order.

        Returns:
            `(frames, grid * grid, vision_dim)`: bilinear, half-pixel centers, no antialiasing.

        Raises:
            InputError: there are more tokens than the grid has, and not a square number.

        Source: the published code of Hour-LLaVA, 27 x 27 -> 8 x 8.
        """
        grid, num_tokens = self.config.grid, tokens.shape[1]
        if num_tokens <= grid * grid:
            return tokens
        side = math.isqrt(num_tokens)
        if side * side != num_tokens:
            raise InputError(
                f"{num_tokens} tokens per frame are not a square and cannot be pooled to {grid} x "
                f"{grid}."
                f" Use features with a square number of tokens, or at most {grid * grid}."
            )
        square = tokens.unflatten(1, (side, side)).permute(
            0, 3, 1, 2
        )  # (frames, dim, rows, columns)
        pooled = F.interpolate(square, (grid, grid), mode="bilinear", align_corners=False)
        return pooled.flatten(2).transpose(1, 2)  # (frames, grid * grid, vision_dim)

    def digest(self) -> str:
        """Return the SHA-256 of the weights, see `hash_weights`, and of the color normalization."""
        return hash_weights(self.tower.state_dict(), repr((self.mean, self.std)).encode())

    def _encode_chunk(self, images: Tensor) -> Tensor:
        dtype = next(self.tower.parameters()).dtype
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)  # (3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)  # (3, 1, 1)
        pixels = ((images / 255 - mean) / std).to(dtype)  # (frames, 3, height, width)
        output = self.tower.forward_intermediates(
            pixels,
            indices=[-1],
            normalize_intermediates=False,
            intermediates_only=True,
            output_fmt="NCHW",  # which convolutional towers have too
        )
        grid: Tensor = output["image_intermediates"][0]  # (frames, vision_dim, rows, columns)
        return grid.flatten(2).transpose(1, 2)  # (frames, tokens, vision_dim)


class Projector(nn.Module):
    """Two linear layers with an exact GELU between them.

    Source: the published code of Hour-LLaVA (`mlp2x_gelu`).
    """

    def __init__(self, vision_dim: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(vision_dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """Project features `(frames, tokens, vision_dim)` to `(frames, tokens, dim)`."""
        return self.layers(features)


def check_weights(name: str, weights: str) -> None:
    """Raise before anything is built if `load_pretrained` cannot load the weights.

    Raises:
        ConfigError: `weights` is neither a pretrained tag of the tower nor a file.
        WeightsError: the file is neither a safetensors file nor a complete file of torch.save.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights in tags:
        return
    file = Path(_find_weights(weights))
    if not file.is_file():
        shipped = [name] if shipped_weights(name).is_file() else []
        raise ConfigError(
            f"model.vision.weights={weights!r} is neither a file nor a pretrained tag of {name},"
            f" which has: {', '.join([*tags, *shipped]) or 'none'}.{download_hint(weights)}"
        )
    if file.suffix != ".safetensors" and not zipfile.is_zipfile(file):
        raise WeightsError(
            f"model.vision.weights={weights!r} is neither a .safetensors file nor a complete file "
            "of"
            " torch.save."
        )


def shipped_weights(name: str) -> Path:
    """Return the file for the weights of one of our towers, which is in the package if it exists.

    `model.vision.weights` takes the name of the tower for it.
    """
    return TOWER_CONFIGS / f"{name}.safetensors"


def _find_weights(weights: str) -> str:
    """Return the file if the name is of shipped weights, or else the setting unchanged."""
    file = shipped_weights(weights)
    return str(file) if weights and Path(weights).name == weights and file.is_file() else weights


def color_mean_std(config: VisionConfig, model: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of red, green and blue (0 to 1), for normalization.

    A file of weights does not contain them. They are those of open_clip's pretrained weights of the
    same tower, or those that timm has for its towers, or else the defaults of open_clip, from CLIP.
    """
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    if tags:
        tag = config.weights if config.weights in tags else tags[0]
        colors = open_clip.get_pretrained_cfg(config.name, tag)
    elif isinstance(model.visual, TimmModel):
        colors = model.visual.trunk.default_cfg
    else:
        colors = open_clip.get_model_preprocess_cfg(model)
    return tuple(colors["mean"]), tuple(colors["std"])


def _build(name: str, weights: str = "") -> Any:
    """Build a whole open_clip model on the default device, with random or pretrained weights."""
    if name not in open_clip.list_models():
        raise ConfigError(
            f"model.vision.name={name!r} is not a model of open_clip. List them with:"
            " python -c 'import open_clip; print(open_clip.list_models())'"
        )
    root = logging.getLogger()  # open_clip warns there about random weights, which are intended
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        return open_clip.create_model(
            name,
            pretrained=weights or None,
            load_weights=bool(weights),
            pretrained_text=False,
            device=torch.get_default_device(),
        )
    finally:
        root.setLevel(level)


def _truncate(tower: Any, config: VisionConfig) -> Any:
    """Remove the layers after the configured one, and set the kind of GELU."""
    trunk = tower.trunk if isinstance(tower, TimmModel) else tower
    if not hasattr(trunk, "prune_intermediate_layers"):
        raise ConfigError(
            f"model.vision.name={config.name!r}: this tower has no patch tokens to read."
        )
    try:
        trunk.prune_intermediate_layers([config.layer], prune_norm=True, prune_head=True)
    except AssertionError as error:
        raise ConfigError(
            f"model.vision.layer={config.layer}, but {config.name} has fewer layers ({error})."
        ) from error
    if isinstance(trunk, EfficientNet):  # timm also keeps the ends of removed stages
        trunk.stage_ends = [end for end in trunk.stage_ends if end <= len(trunk.blocks)]
    if trunk is not tower:
        tower.head = nn.Identity()
    for module in tower.modules():
        if config.tanh_gelu and isinstance(module, nn.GELU):
            module.approximate = "tanh"
    return tower
