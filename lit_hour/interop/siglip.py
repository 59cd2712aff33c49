"""A weight of open_clip's SigLIP vision tower <-> the weights of Hugging Face's that it is made of.

open_clip builds its SigLIP towers with timm, whose weights here are named after `VisionEncoder.tower`; Hugging Face's are
named after `vision_model.`. One weight of timm's is one or, for the attention, three of Hugging Face's, so that a large
checkpoint can be read and written a weight at a time:

    trunk.pos_embed (1, tokens, dim)    embeddings.position_embedding.weight (tokens, dim)
    trunk.patch_embed.proj.*            embeddings.patch_embedding.*
    trunk.blocks.N.norm1.*, norm2.*     encoder.layers.N.layer_norm1.*, layer_norm2.*
    trunk.blocks.N.attn.qkv.*           encoder.layers.N.self_attn.q_proj.*, k_proj.*, v_proj.*, one under the other
    trunk.blocks.N.attn.proj.*          encoder.layers.N.self_attn.out_proj.*
    trunk.blocks.N.mlp.fc1.*, fc2.*     encoder.layers.N.mlp.fc1.*, fc2.*
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_hour.errors import WeightsError

POSITIONS = "trunk.pos_embed"
PATCHES = "trunk.patch_embed.proj"
IN_BLOCK = {
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
BLOCK_WEIGHT = re.compile(r"trunk\.blocks\.(\d+)\.(.+)\.(weight|bias)")
LAYER_WEIGHT = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
UNUSED = ("post_layernorm.", "head.", "embeddings.position_ids")  # behind every layer, or no weight at all


def siglip_names(tower_name: str) -> tuple[str, ...]:
    """Hugging Face's names, after `vision_model.`, of what one weight of the tower is made of.

    Raises:
        WeightsError: the tower is not built like SigLIP, which has no such weight.
    """
    if tower_name == POSITIONS:
        return ("embeddings.position_embedding.weight",)
    if tower_name in (f"{PATCHES}.weight", f"{PATCHES}.bias"):
        return (tower_name.replace(PATCHES, "embeddings.patch_embedding"),)
    found = BLOCK_WEIGHT.fullmatch(tower_name)
    if found is None or found[2] not in IN_BLOCK:
        raise WeightsError(f"the vision tower has {tower_name}, and SigLIP has not: model.vision.name has to name a SigLIP")
    return tuple(f"encoder.layers.{found[1]}.{part}.{found[3]}" for part in IN_BLOCK[found[2]])


def is_unused(siglip_name: str, num_layers: int) -> bool:
    """Whether a weight of Hugging Face's SigLIP has no place in a tower of so many layers, which ends where it is read."""
    found = LAYER_WEIGHT.fullmatch(siglip_name)
    return siglip_name.startswith(UNUSED) or (found is not None and int(found[1]) >= num_layers)


def to_tower(tower_name: str, weights: Sequence[Tensor]) -> Tensor:
    """One weight of the tower, from those that `siglip_names` lists for it.

    Raises:
        WeightsError: they do not have the same shape, and so cannot be joined.
    """
    if tower_name == POSITIONS:
        return weights[0].unsqueeze(0)  # (1, tokens, dim)
    if len({weight.shape for weight in weights}) > 1:
        shapes = ", ".join(
            f"{name} {tuple(weight.shape)}" for name, weight in zip(siglip_names(tower_name), weights, strict=True)
        )
        raise WeightsError(f"queries, keys and values of one layer have to have the same shape: {shapes}")
    return torch.cat(list(weights)) if len(weights) > 1 else weights[0]  # (3 * dim, dim) or (3 * dim,)


def from_tower(tower_name: str, weight: Tensor) -> dict[str, Tensor]:
    """Hugging Face's weights, by their names after `vision_model.`, that one weight of the tower is made of."""
    names = siglip_names(tower_name)
    if tower_name == POSITIONS:
        return {names[0]: weight.squeeze(0)}  # (tokens, dim)
    return dict(zip(names, weight.chunk(len(names)), strict=True))  # (dim, dim) or (dim,)
