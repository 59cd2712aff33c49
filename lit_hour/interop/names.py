"""A weight of ours <-> the published weights that hold the same numbers.

    frame_end                                    model.image_newline
    projector.layers.*                           model.mm_projector.*
    language.network.model.*                     model.*
    language.network.lm_head.*                   lm_head.*                        absent where embeddings are tied
    memory.blocks.N.*                            model.vision_resampler.layers.N.*                  as IN_BLOCK says
        self_attention.{query,key,value}.*           self_attn.Wqkv.*             one under the other
        cross_attention.{key,value}.*                cross_attn.Wkv.*             one under the other
    vision.tower.*                               model.vision_tower.vision_tower.vision_model.*     as siglip says

A plain language model and LLaVA-OneVision have a part of these names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.interop.siglip import from_tower, siglip_names, to_tower
from lit_hour.weights import StoredWeights

TOWER, PUBLISHED_TOWER = "vision.tower.", "model.vision_tower.vision_tower.vision_model."
MEMORY, PUBLISHED_MEMORY = "memory.", "model.vision_resampler."
OUTPUT_LAYER, PUBLISHED_OUTPUT_LAYER = "language.network.lm_head.weight", "lm_head.weight"
EMBEDDING = "language.network.model.embed_tokens.weight"
PREFIXES = {
    "frame_end": "model.image_newline",
    "projector.layers.": "model.mm_projector.",
    "language.network.model.": "model.",
    "language.network.lm_head.": "lm_head.",
}
IN_BLOCK = {  # published -> ours; several of ours lie there one under the other
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
PUBLISHED_OF = {ours: published for published, several in IN_BLOCK.items() for ours in several}
BLOCK_WEIGHT = re.compile(r"memory\.blocks\.(\d+)\.(.+)\.(weight|bias)")


def may_lack_of(config: Config) -> Callable[[str], bool]:
    """Which weights of a model a file need not have: an output layer that shares the embedding's."""
    return lambda name: config.model.language.tie_embeddings and name == OUTPUT_LAYER


class Counterparts(NamedTuple):
    """The fewest weights of ours, and published ones, that hold the same numbers."""

    ours: tuple[str, ...]
    published: tuple[str, ...]


def counterparts(name: str) -> Counterparts:
    """Those that one weight of ours, by its name, belongs to.

    Raises:
        WeightsError: it is of a vision tower that is not built like SigLIP, for which nothing is published.
    """
    if name.startswith(TOWER):
        return Counterparts((name,), tuple(PUBLISHED_TOWER + each for each in siglip_names(name.removeprefix(TOWER))))
    if found := BLOCK_WEIGHT.fullmatch(name):
        number, part, kind = found.groups()
        published = PUBLISHED_OF[part]
        ours = tuple(f"memory.blocks.{number}.{each}.{kind}" for each in IN_BLOCK[published])
        return Counterparts(ours, (f"{PUBLISHED_MEMORY}layers.{number}.{published}.{kind}",))
    prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    return Counterparts((name,), (PREFIXES[prefix] + name.removeprefix(prefix),))


def to_ours(pair: Counterparts, published: Sequence[Tensor], dim: int) -> dict[str, Tensor]:
    """Our weights from their published counterparts; the language model is `dim` wide, and queries have as many rows.

    Raises:
        WeightsError: queries, keys and values of the tower cannot be joined.
    """
    if pair.ours[0].startswith(TOWER):
        return {pair.ours[0]: to_tower(pair.ours[0].removeprefix(TOWER), published)}
    if len(pair.ours) == 1:
        return {pair.ours[0]: published[0]}
    queries, keys_and_values = published[0].tensor_split([dim if len(pair.ours) == 3 else 0])  # (dim, ...), (2 * rows, ...)
    rows = [queries, *keys_and_values.tensor_split(2)][-len(pair.ours) :]
    return dict(zip(pair.ours, rows, strict=True))


def to_published(pair: Counterparts, ours: Sequence[Tensor]) -> dict[str, Tensor]:
    """The published counterparts of our weights."""
    if pair.ours[0].startswith(TOWER):
        converted = from_tower(pair.ours[0].removeprefix(TOWER), ours[0])
        return {PUBLISHED_TOWER + name: tensor for name, tensor in converted.items()}
    return {pair.published[0]: torch.cat(list(ours)) if len(ours) > 1 else ours[0]}


def outline_published(outlines: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the published counterparts of our weights look like; all of the tensors are on the device "meta"."""
    return {
        name: tensor
        for pair in _pairs(outlines)
        for name, tensor in to_published(pair, [outlines[each] for each in pair.ours]).items()
    }


def as_ours(stored: StoredWeights, names: Iterable[str], dim: int) -> StoredWeights:
    """Published weights that fit, as those of ours with these names."""

    def convert(name: str, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        pair = counterparts(name)
        published = [stored.read(each) if tensors is None else tensors[each] for each in pair.published]
        return to_ours(pair, published, dim)[name]

    return StoredWeights(stored.path, {name: convert(name, stored.outlines) for name in names}, convert)


def as_published(stored: StoredWeights) -> StoredWeights:
    """Our weights as the published ones."""
    pair_of = {name: pair for pair in _pairs(stored.outlines) for name in pair.published}

    def convert(name: str) -> Tensor:
        pair = pair_of[name]
        return to_published(pair, [stored.read(each) for each in pair.ours])[name]

    return StoredWeights(stored.path, outline_published(stored.outlines), convert)


def _pairs(names: Iterable[str]) -> list[Counterparts]:
    """The counterparts of all these weights, each once."""
    return list(dict.fromkeys(map(counterparts, names)))
