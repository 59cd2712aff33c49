"""Vision towers of an exported Hour-LLaVA: images to patch tokens, without a head."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN


class VisionTransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward layer."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, eps: float, activation: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.expand = nn.Linear(dim, mlp_dim)
        self.activation = ACT2FN[activation]
        self.contract = nn.Linear(mlp_dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the layer: `(images, tokens, dim)` -> the same."""
        qkv = self.qkv(self.norm1(hidden))  # (images, tokens, 3 * dim)
        queries, keys, values = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1)
        )  # (images, heads, tokens, head_dim)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        hidden = hidden + self.output(attended.transpose(1, 2).flatten(2))  # (images, tokens, dim)
        return hidden + self.contract(self.activation(self.expand(self.norm2(hidden))))


class TransformerSizes(NamedTuple):
    """Sizes of a `VisionTransformer`, whose last layer is the one that is used."""

    image_size: int
    patch_size: int
    dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    layer_norm_eps: float
    activation: str
    patch_bias: bool
    class_token: bool
    pre_norm: bool


class VisionTransformer(nn.Module):
    """The layers of a ViT (CLIP, SigLIP) up to the one that is used."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        dim, eps = sizes.dim, sizes.layer_norm_eps
        num_tokens = (sizes.image_size // sizes.patch_size) ** 2 + sizes.class_token
        patch = (sizes.patch_size, sizes.patch_size)
        self.patch_embedding = nn.Conv2d(3, dim, patch, patch, bias=sizes.patch_bias)
        self.class_embedding: nn.Parameter | None = None
        if sizes.class_token:
            self.class_embedding = nn.Parameter(torch.zeros(dim))  # (dim,)
        self.position_embedding = nn.Parameter(torch.zeros(num_tokens, dim))  # (tokens, dim)
        self.pre_norm = nn.LayerNorm(dim, eps=eps) if sizes.pre_norm else nn.Identity()
        self.layers = nn.ModuleList(
            VisionTransformerLayer(dim, sizes.num_heads, sizes.mlp_dim, eps, sizes.activation)
            for _ in range(sizes.num_layers)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images `(images, 3, height, width)` to patch tokens `(images, tokens, dim)`."""
        tokens = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (images, tokens, dim)
        if self.class_embedding is not None:
            first = self.class_embedding.expand(len(tokens), 1, -1)  # (images, 1, dim)
            tokens = torch.cat([first, tokens], dim=1)  # (images, tokens + 1, dim)
        hidden = self.pre_norm(tokens + self.position_embedding)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden if self.class_embedding is None else hidden[:, 1:]


class ResNetStage(nn.Module):
    """A basic block of a ResNet with group norm, which halves height and width."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(1, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(1, channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=2, bias=False)
        self.shortcut_norm = nn.GroupNorm(1, channels)

    def forward(self, grid: Tensor) -> Tensor:
        """Compute `(images, in_channels, rows, columns)` -> `(images, channels, half, half)`."""
        hidden = F.relu(self.norm1(self.conv1(grid)))  # (images, channels, half, half)
        hidden = self.norm2(self.conv2(hidden))
        return F.relu(hidden + self.shortcut_norm(self.shortcut(grid)))


class ResNetSizes(NamedTuple):
    """Sizes of a `ResNet`."""

    stem_channels: int
    stage_channels: list[int]


class ResNet(nn.Module):
    """A small ResNet: a stem and stages, each of which halves height and width."""

    def __init__(self, sizes: ResNetSizes) -> None:
        super().__init__()
        stem_channels, stage_channels = sizes
        self.stem = nn.Conv2d(3, stem_channels, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.GroupNorm(1, stem_channels)
        self.stages = nn.ModuleList(
            ResNetStage(*channels)
            for channels in zip([stem_channels, *stage_channels], stage_channels, strict=False)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images `(images, 3, height, width)` to tokens `(images, tokens, channels)`."""
        grid = F.relu(self.stem_norm(self.stem(pixels)))  # (images, channels, rows, columns)
        for stage in self.stages:
            grid = stage(grid)
        return grid.flatten(2).transpose(1, 2)  # (images, tokens, channels)


def build_tower(name: str, sizes: dict[str, Any]) -> tuple[nn.Module, int]:
    """Build a vision tower, "transformer" or "resnet", and return it with the width of its tokens.

    Raises:
        ValueError: there is no such tower.
    """
    if name == "transformer":
        transformer = TransformerSizes(**sizes)
        return VisionTransformer(transformer), transformer.dim
    if name == "resnet":
        resnet = ResNetSizes(**sizes)
        return ResNet(resnet), resnet.stage_channels[-1]
    raise ValueError(f"vision_config.tower={name!r} is unknown. Use 'transformer' or 'resnet'.")


def pool_frames(tokens: Tensor, side: int) -> Tensor:
    """Pool the square of tokens of each video frame to a smaller one, by bilinear interpolation.

    Args:
        tokens: `(frames, tokens, dim)`, in raster order.
        side: rows and columns of the result.

    Returns:
        `(frames, side * side, dim)`.
    """
    full = math.isqrt(tokens.shape[1])
    if full <= side:
        return tokens
    square = tokens.unflatten(1, (full, full)).permute(0, 3, 1, 2)  # (frames, dim, rows, columns)
    pooled = F.interpolate(square, (side, side), mode="bilinear")
    return pooled.flatten(2).transpose(1, 2)  # (frames, side * side, dim)
