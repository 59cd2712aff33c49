"""A weight of ours <-> the published weights that hold the same numbers.

    frame_newline                                    model.image_newline
    projector.layers.*                           model.mm_projector.*
    llm.network.model.*                     model.*
    llm.network.lm_head.*                   lm_head.*                        absent where embeddings are tied
    memaug.blocks.N.*                            model.vision_resampler.layers.N.*                  as IN_BLOCK says
        self_attention.{query,key,value}.*           self_attn.Wqkv.*             one under the other
        cross_attention.{key,value}.*                cross_attn.Wkv.*             one under the other
    vision.tower.*                               model.vision_tower.vision_tower.vision_model.*     as siglip says

A plain language model and LLaVA-OneVision have a part of these names.


A weight of open_clip's SigLIP vision tower <-> the weights of Hugging Face's that it is made of.

open_clip builds its SigLIP towers with timm, whose weights here are named after `VisionEncoder.tower`; Hugging Face's are
named after `vision_model.`. One weight of timm's is one or, for the attention, three of Hugging Face's, so that a large
checkpoint can be read and written a weight at a time:

    trunk.pos_embed (1, tokens, dim)    embeddings.position_embedding.weight (tokens, dim)
    trunk.patch_embed.proj.*            embeddings.patch_embedding.*
    trunk.blocks.N.norm1.*, norm2.*     encoder.layers.N.layer_norm1.*, layer_norm2.*
    trunk.blocks.N.attn.qkv.*           encoder.layers.N.self_attn.q_proj.*, k_proj.*, v_proj.*, one under the other
    trunk.blocks.N.attn.proj.*          encoder.layers.N.self_attn.out_proj.*
    trunk.blocks.N.mlp.fc1.*, fc2.*     encoder.layers.N.mlp.fc1.*, fc2.*


Low-rank adapters as peft names them <-> plain weights.

....q_proj.base_layer.weight         W: what they adapt
....q_proj.lora_A.default.weight     A: (rank, inputs)
....q_proj.lora_B.default.weight     B: (outputs, rank)      ->      ....q_proj.weight = W + alpha / rank * B A
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_hour.config.model import LoraConfig
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.weights.reader import StoredWeights

TOWER, PUBLISHED_TOWER = "vision.tower.", "model.vision_tower.vision_tower.vision_model."
MEMAUG, PUBLISHED_MEMAUG = "memaug.", "model.vision_resampler."
OUTPUT_LAYER, PUBLISHED_OUTPUT_LAYER = "llm.network.lm_head.weight", "lm_head.weight"
EMBEDDING = "llm.network.model.embed_tokens.weight"
PREFIXES = {
    "frame_newline": "model.image_newline",
    "projector.layers.": "model.mm_projector.",
    "llm.network.model.": "model.",
    "llm.network.lm_head.": "lm_head.",
}
MEMAUG_BLOCK = {  # published -> ours; several of ours lie there one under the other
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


def optional_weights(config: Config) -> Callable[[str], bool]:
    """Which weights of a model a file need not have: an output layer that shares the embedding's."""
    return lambda name: config.model.llm.tie_word_embeddings and name == OUTPUT_LAYER


class WeightGroup(NamedTuple):
    """The fewest weights of ours, and published ones, that hold the same numbers."""

    ours: tuple[str, ...]
    published: tuple[str, ...]


def weight_group(name: str) -> WeightGroup:
    """Those that one weight of ours, by its name, belongs to.

    Raises:
        WeightsError: it is of a vision tower that is not built like SigLIP, for which nothing is published.
    """
    if name.startswith(TOWER):
        return WeightGroup(
            (name,),
            tuple(PUBLISHED_TOWER + each for each in siglip_names_of(name.removeprefix(TOWER))),
        )
    if found := MEMAUG_WEIGHT.fullmatch(name):
        number, part, kind = found.groups()
        published = PUBLISHED_OF[part]
        ours = tuple(f"memaug.blocks.{number}.{each}.{kind}" for each in MEMAUG_BLOCK[published])
        return WeightGroup(ours, (f"{PUBLISHED_MEMAUG}layers.{number}.{published}.{kind}",))
    prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    return WeightGroup((name,), (PREFIXES[prefix] + name.removeprefix(prefix),))


def convert_from_hf(pair: WeightGroup, published: Sequence[Tensor], dim: int) -> dict[str, Tensor]:
    """Our weights from their published counterparts; the language model is `dim` wide, and queries have as many rows.

    Raises:
        WeightsError: queries, keys and values of the tower cannot be joined.
    """
    if pair.ours[0].startswith(TOWER):
        return {pair.ours[0]: to_tower(pair.ours[0].removeprefix(TOWER), published)}
    if len(pair.ours) == 1:
        return {pair.ours[0]: published[0]}
    queries, keys_and_values = published[0].tensor_split(
        [dim if len(pair.ours) == 3 else 0]
    )  # (dim, ...), (2 * rows, ...)
    rows = [queries, *keys_and_values.tensor_split(2)][-len(pair.ours) :]
    return dict(zip(pair.ours, rows, strict=True))


def convert_to_hf(pair: WeightGroup, ours: Sequence[Tensor]) -> dict[str, Tensor]:
    """The published counterparts of our weights."""
    if pair.ours[0].startswith(TOWER):
        converted = from_tower(pair.ours[0].removeprefix(TOWER), ours[0])
        return {PUBLISHED_TOWER + name: tensor for name, tensor in converted.items()}
    return {pair.published[0]: torch.cat(list(ours)) if len(ours) > 1 else ours[0]}


def hf_meta_tensors(outlines: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the published counterparts of our weights look like; all of the tensors are on the device "meta"."""
    return {
        name: tensor
        for pair in _weight_groups(outlines)
        for name, tensor in convert_to_hf(pair, [outlines[each] for each in pair.ours]).items()
    }


def from_hf(stored: StoredWeights, names: Iterable[str], dim: int) -> StoredWeights:
    """Published weights that fit, as those of ours with these names."""

    def convert(name: str, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        pair = weight_group(name)
        published = [
            stored.read(each) if tensors is None else tensors[each] for each in pair.published
        ]
        return convert_from_hf(pair, published, dim)[name]

    return StoredWeights(
        stored.path, {name: convert(name, stored.meta_tensors) for name in names}, convert
    )


def to_hf(stored: StoredWeights) -> StoredWeights:
    """Our weights as the published ones."""
    pair_of = {
        name: pair for pair in _weight_groups(stored.meta_tensors) for name in pair.published
    }

    def convert(name: str) -> Tensor:
        pair = pair_of[name]
        return convert_to_hf(pair, [stored.read(each) for each in pair.ours])[name]

    return StoredWeights(stored.path, hf_meta_tensors(stored.meta_tensors), convert)


def _weight_groups(names: Iterable[str]) -> list[WeightGroup]:
    """The counterparts of all these weights, each once."""
    return list(dict.fromkeys(map(weight_group, names)))


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
)  # behind every layer, or no weight at all


def siglip_names_of(tower_name: str) -> tuple[str, ...]:
    """Hugging Face's names, after `vision_model.`, of what one weight of the tower is made of.

    Raises:
        WeightsError: the tower is not built like SigLIP, which has no such weight.
    """
    if tower_name == POSITION_EMBEDDING:
        return ("embeddings.position_embedding.weight",)
    if tower_name in (f"{PATCH_EMBEDDING}.weight", f"{PATCH_EMBEDDING}.bias"):
        return (tower_name.replace(PATCH_EMBEDDING, "embeddings.patch_embedding"),)
    found = TOWER_WEIGHT.fullmatch(tower_name)
    if found is None or found[2] not in SIGLIP_BLOCK:
        raise WeightsError(
            f"the vision tower has {tower_name}, and SigLIP has not: model.vision.name has to name a SigLIP"
        )
    return tuple(f"encoder.layers.{found[1]}.{part}.{found[3]}" for part in SIGLIP_BLOCK[found[2]])


def is_unused(siglip_name: str, num_layers: int) -> bool:
    """Whether a weight of Hugging Face's SigLIP has no place in a tower of so many layers, which ends where it is read."""
    found = SIGLIP_WEIGHT.fullmatch(siglip_name)
    return siglip_name.startswith(UNUSED) or (found is not None and int(found[1]) >= num_layers)


def to_tower(tower_name: str, weights: Sequence[Tensor]) -> Tensor:
    """One weight of the tower, from those that `siglip_names_of` lists for it.

    Raises:
        WeightsError: they do not have the same shape, and so cannot be joined.
    """
    if tower_name == POSITION_EMBEDDING:
        return weights[0].unsqueeze(0)  # (1, tokens, dim)
    if len({weight.shape for weight in weights}) > 1:
        shapes = ", ".join(
            f"{name} {tuple(weight.shape)}"
            for name, weight in zip(siglip_names_of(tower_name), weights, strict=True)
        )
        raise WeightsError(
            f"queries, keys and values of one layer have to have the same shape: {shapes}"
        )
    return (
        torch.cat(list(weights)) if len(weights) > 1 else weights[0]
    )  # (3 * dim, dim) or (3 * dim,)


def from_tower(tower_name: str, weight: Tensor) -> dict[str, Tensor]:
    """Hugging Face's weights, by their names after `vision_model.`, that one weight of the tower is made of."""
    names = siglip_names_of(tower_name)
    if tower_name == POSITION_EMBEDDING:
        return {names[0]: weight.squeeze(0)}  # (tokens, dim)
    return dict(zip(names, weight.chunk(len(names)), strict=True))  # (dim, dim) or (dim,)


BASE, ADAPTER = ".base_layer.", ".lora_"
DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


def plain_name(name: str) -> str | None:
    """The name that a weight has in a model without adapters; None for a part of an adapter."""
    return None if ADAPTER in name else name.replace(BASE, ".")


def merge_adapters(stored: StoredWeights, settings: LoraConfig) -> StoredWeights:
    """The weights of a model with adapters as those of one without, each merged in float32 when it is read."""
    stored_as = {
        plain: name for name in stored.meta_tensors if (plain := plain_name(name)) is not None
    }

    def read(name: str) -> Tensor:
        weight = stored.read(stored_as[name])  # (outputs, inputs)
        layer = name.removesuffix(".weight")
        if layer + DOWN not in stored.meta_tensors:
            return weight
        down, up = (
            stored.read(layer + DOWN).float(),
            stored.read(layer + UP).float(),
        )  # (rank, inputs), (outputs, rank)
        return (weight.float() + settings.alpha / settings.rank * (up @ down)).to(
            weight.dtype
        )  # (outputs, inputs)

    return StoredWeights(
        stored.path, {plain: stored.meta_tensors[name] for plain, name in stored_as.items()}, read
    )
