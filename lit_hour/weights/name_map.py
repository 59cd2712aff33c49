"""Map state-dict names between this model and the Hugging Face layout.

Start at `from_hf` and `to_hf`. Some weights of one side are concatenated on the other, so names map
in groups (`WeightGroup`); a large checkpoint is converted one weight at a time. The language model
and LLaVA-OneVision have subsets of these names:

    ours                                   Hugging Face
    frame_newline                              model.image_newline
    projector.layers.*                     model.mm_projector.*
    llm.network.model.*               model.*
    llm.network.lm_head.*             lm_head.*                 (missing with tied embeddings)
    memaug.blocks.N.*                      model.vision_resampler.layers.N.*    (MEMAUG_BLOCK)
        self_attention.{query,key,value}       self_attn.Wqkv        (concatenated)
        cross_attention.{key,value}            cross_attn.Wkv        (concatenated)
    vision.tower.*                         model.vision_tower.vision_tower.vision_model.*
    time_embedding.weight                  none: of text.frame_times=embedding (TIME_EMBEDDING)

open_clip builds its SigLIP towers with timm; after `vision.tower.` and `vision_model.`:

    trunk.pos_embed (1, tokens, dim)       embeddings.position_embedding.weight (tokens, dim)
    trunk.patch_embed.proj.*               embeddings.patch_embedding.*
    trunk.blocks.N.norm1, norm2            encoder.layers.N.layer_norm1, layer_norm2
    trunk.blocks.N.attn.qkv                encoder.layers.N.self_attn.{q,k,v}_proj  (concatenated)
    trunk.blocks.N.attn.proj               encoder.layers.N.self_attn.out_proj
    trunk.blocks.N.mlp.fc1, fc2            encoder.layers.N.mlp.fc1, fc2

LoRA adapters have peft's names; the merged weight is V = W + scale * B A, with alpha / rank as the
scale, or alpha / sqrt(rank). With DoRA each row of V is then scaled to the length in M:

    ....q_proj.base_layer.weight           W: the frozen weight
    ....q_proj.lora_A.default.weight       A: (rank, inputs)
    ....q_proj.lora_B.default.weight       B: (outputs, rank)
    ....q_proj.lora_magnitude_vector.default.weight    M: (outputs,)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_hour.config.model import LoraConfig
from lit_hour.errors import WeightsError
from lit_hour.weights.reader import StoredWeights

TOWER, PUBLISHED_TOWER = "vision.tower.", "model.vision_tower.vision_tower.vision_model."
MEMAUG, PUBLISHED_MEMAUG = "memaug.", "model.vision_resampler."
TIME_EMBEDDING = "time_embedding."  # no published model has one; a new one is zero
PUBLISHED_OUTPUT_LAYER = "lm_head.weight"
PUBLISHED_EMBEDDING = "model.embed_tokens.weight"
EMBEDDING = "llm.network.model.embed_tokens.weight"
PREFIXES = {
    "frame_newline": "model.image_newline",
    "projector.layers.": "model.mm_projector.",
    "llm.network.model.": "model.",
    "llm.network.lm_head.": "lm_head.",
}
MEMAUG_BLOCK = {  # published name to ours; several of ours are concatenated there
    "self_attn.Wqkv": ("self_attention.query", "self_attention.key", "self_attention.value"),
    "self_attn.Wo": ("self_attention.output",),
    "cross_attn.Wq": ("cross_attention.query",),
    "cross_attn.Wkv": ("cross_attention.key", "cross_attention.value"),
    "cross_attn.Wo": ("cross_attention.output",),
    "mlp.0": ("feed_forward.0",),
    "mlp.2": ("feed_forward.2",),
    "norm1": ("self_attention_norm",),
    "norm2": ("cross_attention_norm",),
    "norm3": ("feed_forward_norm",),
}
PUBLISHED_OF = {ours: published for published, several in MEMAUG_BLOCK.items() for ours in several}
MEMAUG_WEIGHT = re.compile(r"memaug\.blocks\.(\d+)\.(.+)\.(weight|bias)")

# names of SigLIP: timm's, and Hugging Face's after `vision_model.`
POSITION_EMBEDDING = "trunk.pos_embed"
PATCH_EMBEDDING = "trunk.patch_embed.proj"
SIGLIP_BLOCK = {
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
TOWER_WEIGHT = re.compile(r"trunk\.blocks\.(\d+)\.(.+)\.(weight|bias)")
SIGLIP_WEIGHT = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
UNUSED = (
    "post_layernorm.",
    "head.",
    "embeddings.position_ids",
)  # after the last layer, or a buffer

# names of peft
BASE, ADAPTER = ".base_layer.", ".lora_"
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"
MAGNITUDE = ".lora_magnitude_vector.default.weight"


class WeightGroup(NamedTuple):
    """The smallest sets of names on both sides that hold the same numbers."""

    ours: tuple[str, ...]
    published: tuple[str, ...]


def weight_group(name: str) -> WeightGroup:
    """Return the group that contains this weight of ours.

    Raises:
        WeightsError: The vision tower is not a SigLIP, so that the weight has no Hugging Face name.
    """
    if name.startswith(TOWER):
        return WeightGroup(
            (name,),
            tuple(PUBLISHED_TOWER + part for part in siglip_names_of(name.removeprefix(TOWER))),
        )
    if found := MEMAUG_WEIGHT.fullmatch(name):
        layer, part, kind = found.groups()
        published = PUBLISHED_OF[part]
        ours = tuple(f"{MEMAUG}blocks.{layer}.{part}.{kind}" for part in MEMAUG_BLOCK[published])
        return WeightGroup(ours, (f"{PUBLISHED_MEMAUG}layers.{layer}.{published}.{kind}",))
    prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    return WeightGroup((name,), (PREFIXES[prefix] + name.removeprefix(prefix),))


def convert_from_hf(group: WeightGroup, published: Sequence[Tensor], dim: int) -> dict[str, Tensor]:
    """Convert Hugging Face weights of a group to ours.

    Args:
        group: names on both sides.
        published: tensors of `group.published`, such as the fused `(dim + 2 * kv_dim, inputs)` of
            an attention of MemAug.
        dim: width of the language model; MemAug's queries have as many rows.

    Returns:
        Our name to tensor, such as queries `(dim, inputs)`, keys and values `(kv_dim, inputs)`.

    Raises:
        WeightsError: Queries, keys and values of the vision tower have different shapes.
    """
    if group.ours[0].startswith(TOWER):
        return {group.ours[0]: to_tower(group.ours[0].removeprefix(TOWER), published)}
    if len(group.ours) == 1:
        return {group.ours[0]: published[0]}
    num_queries = dim if len(group.ours) == 3 else 0
    # (dim, ...) and (2 * rows, ...)
    queries, keys_and_values = published[0].tensor_split([num_queries])
    rows = [queries, *keys_and_values.tensor_split(2)][-len(group.ours) :]
    return dict(zip(group.ours, rows, strict=True))


def convert_to_hf(group: WeightGroup, ours: Sequence[Tensor]) -> dict[str, Tensor]:
    """Convert our weights of a group to the Hugging Face layout; undoes `convert_from_hf`.

    Several weights are joined along their first dimension: `(rows, ...)` each to
    `(all rows, ...)`.
    """
    if group.ours[0].startswith(TOWER):
        converted = from_tower(group.ours[0].removeprefix(TOWER), ours[0])
        return {PUBLISHED_TOWER + name: tensor for name, tensor in converted.items()}
    return {group.published[0]: torch.cat(list(ours)) if len(ours) > 1 else ours[0]}


def hf_meta_tensors(meta_tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the Hugging Face names, shapes and dtypes of our weights as meta tensors."""
    return {
        name: tensor
        for group in _weight_groups(meta_tensors)
        for name, tensor in convert_to_hf(
            group, [meta_tensors[ours] for ours in group.ours]
        ).items()
    }


def from_hf(stored: StoredWeights, names: Iterable[str], dim: int) -> StoredWeights:
    """Return checked weights of a Hugging Face checkpoint under our names, converted on access."""

    def convert(name: str, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        group = weight_group(name)
        published = [
            stored.read(hf_name) if tensors is None else tensors[hf_name]
            for hf_name in group.published
        ]
        return convert_from_hf(group, published, dim)[name]

    return StoredWeights(
        stored.path, {name: convert(name, stored.meta_tensors) for name in names}, convert
    )


def to_hf(stored: StoredWeights) -> StoredWeights:
    """Return our weights under their Hugging Face names, converted on access."""
    group_of = {
        name: group for group in _weight_groups(stored.meta_tensors) for name in group.published
    }

    def convert(name: str) -> Tensor:
        group = group_of[name]
        return convert_to_hf(group, [stored.read(ours) for ours in group.ours])[name]

    return StoredWeights(stored.path, hf_meta_tensors(stored.meta_tensors), convert)


def _weight_groups(names: Iterable[str]) -> list[WeightGroup]:
    """Return the groups of all these weights, each once."""
    return list(dict.fromkeys(map(weight_group, names)))


def siglip_names_of(tower_name: str) -> tuple[str, ...]:
    """Return Hugging Face's names, after `vision_model.`, for one weight of the timm tower.

    Raises:
        WeightsError: SigLIP has no such weight.
    """
    if tower_name == POSITION_EMBEDDING:
        return ("embeddings.position_embedding.weight",)
    if tower_name in (f"{PATCH_EMBEDDING}.weight", f"{PATCH_EMBEDDING}.bias"):
        return (tower_name.replace(PATCH_EMBEDDING, "embeddings.patch_embedding"),)
    found = TOWER_WEIGHT.fullmatch(tower_name)
    if found is None or found[2] not in SIGLIP_BLOCK:
        raise WeightsError(
            f"The vision tower has {tower_name}, which SigLIP lacks. Only a run with a SigLIP can"
            " be converted: train one with model.vision.name=ViT-SO400M-14-SigLIP-384."
        )
    return tuple(f"encoder.layers.{found[1]}.{part}.{found[3]}" for part in SIGLIP_BLOCK[found[2]])


def is_unused(siglip_name: str, num_layers: int) -> bool:
    """Return True for a Hugging Face weight that a tower truncated after `num_layers` lacks."""
    found = SIGLIP_WEIGHT.fullmatch(siglip_name)
    return siglip_name.startswith(UNUSED) or (found is not None and int(found[1]) >= num_layers)


def to_tower(tower_name: str, weights: Sequence[Tensor]) -> Tensor:
    """Concatenate the Hugging Face weights of one weight of the timm tower.

    Args:
        tower_name: name of the timm weight.
        weights: tensors of the names that `siglip_names_of` returns: `(dim, dim)` or `(dim,)` each.

    Raises:
        WeightsError: Their shapes differ.
    """
    if tower_name == POSITION_EMBEDDING:
        return weights[0].unsqueeze(0)  # (1, tokens, dim)
    if len({weight.shape for weight in weights}) > 1:
        shapes = ", ".join(
            f"{name} {tuple(weight.shape)}"
            for name, weight in zip(siglip_names_of(tower_name), weights, strict=True)
        )
        raise WeightsError(
            f"Queries, keys and values of one layer must have the same shape, not {shapes}."
        )
    # a single weight is returned without a copy
    return torch.cat(list(weights)) if len(weights) > 1 else weights[0]  # (3 * dim, ...)


def from_tower(tower_name: str, weight: Tensor) -> dict[str, Tensor]:
    """Split one weight of the timm tower into Hugging Face's, named after `vision_model.`.

    Args:
        tower_name: timm's name.
        weight: `(1, tokens, dim)` for the position embedding; otherwise `(rows, ...)`, where the
            rows of queries, keys and values follow each other.

    Returns:
        Name to tensor: `(tokens, dim)`, or equal parts of the rows.
    """
    names = siglip_names_of(tower_name)
    if tower_name == POSITION_EMBEDDING:
        return {names[0]: weight.squeeze(0)}  # (tokens, dim)
    return dict(zip(names, weight.chunk(len(names)), strict=True))  # (dim, dim) or (dim,)


def plain_name(name: str) -> str | None:
    """Return a weight's name in a model without LoRA; None for an adapter's own weight."""
    return None if ADAPTER in name else name.replace(BASE, ".")


def merge_adapters(stored: StoredWeights, config: LoraConfig) -> StoredWeights:
    """Merge LoRA adapters into the weights that they adapt, in float32, when each is read."""
    stored_as = {
        plain: name for name in stored.meta_tensors if (plain := plain_name(name)) is not None
    }

    def read(name: str) -> Tensor:
        weight = stored.read(stored_as[name])  # (outputs, inputs)
        layer = name.removesuffix(".weight")
        if layer + LORA_A not in stored.meta_tensors:
            return weight
        lora_a = stored.read(layer + LORA_A).float()  # (rank, inputs)
        lora_b = stored.read(layer + LORA_B).float()  # (outputs, rank)
        merged = weight.float() + config.scale * (lora_b @ lora_a)  # (outputs, inputs)
        if layer + MAGNITUDE in stored.meta_tensors:
            lengths = torch.linalg.vector_norm(merged, dim=1)  # (outputs,)
            merged *= (stored.read(layer + MAGNITUDE).float() / lengths)[:, None]
        return merged.to(weight.dtype)  # (outputs, inputs)

    def parts(name: str) -> list[Tensor]:
        layer = name.removesuffix("weight") + "lora_"
        factors = sorted(one for one in stored.meta_tensors if one.startswith(layer))
        return [*stored.parts(stored_as[name]), *map(stored.read, factors)]

    meta_tensors = {plain: stored.meta_tensors[name] for plain, name in stored_as.items()}
    return StoredWeights(stored.path, meta_tensors, read, stored_parts=parts)
