"""A folder in the Hugging Face layout -> weights of ours that fit a model, none of which is read before all are checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_hour.config.model import VisionConfig
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.weights.hf_config import PublishedConfig
from lit_hour.weights.name_map import (
    MEMAUG,
    OUTPUT_LAYER,
    PUBLISHED_MEMAUG,
    PUBLISHED_OUTPUT_LAYER,
    PUBLISHED_TOWER,
    TOWER,
    from_hf,
    hf_meta_tensors,
    is_unused,
)
from lit_hour.weights.reader import (
    SAFE,
    StoredWeights,
    check_floating_point,
    check_state_dict,
    open_weights,
    shapes_of,
)

LLM = "llm."
PATCHES = "embeddings.patch_embedding.weight"  # of a Hugging Face SigLIP, behind whatever prefix its weights have

MetaTensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights of ours, ready to be read, and the names of those beside them that have no place here."""

    weights: StoredWeights
    unused: tuple[str, ...] = ()


def meta_state_dict(config: Config, num_tokens: int) -> dict[str, Tensor]:
    """What the weights of a model look like, by name; it is built without any data."""
    with torch.device("meta"):
        return dict(HourLLaVA(config, num_tokens).state_dict())


def drop_tied_output(outlines: MetaTensors, config: Config) -> dict[str, Tensor]:
    """Without the output layer where it shares the embedding's weights: published files do not have it then."""
    tied = config.model.llm.tie_word_embeddings
    return {
        name: outline for name, outline in outlines.items() if not (tied and name == OUTPUT_LAYER)
    }


def open_published(
    published: PublishedConfig, config: Config, outlines: MetaTensors
) -> PretrainedWeights:
    """Weights of a published model, with the vision tower of `model.vision.weights` where they have none.

    Args:
        outlines: of the model that they are for. Of it a plain language model gives the language model alone, and
            LLaVA-OneVision everything but MemAug.

    Raises:
        WeightsError: a file is missing or damaged, or a weight is missing, left over or of another shape.
    """
    folder = published.file.parent
    stored = open_weights(folder)
    wanted = drop_tied_output(outlines, config)
    has_tower = any(name.startswith(PUBLISHED_TOWER) for name in stored.meta_tensors)
    has_memory = any(name.startswith(PUBLISHED_MEMAUG) for name in stored.meta_tensors)
    num_layers = num_tower_layers(outlines)

    def has_no_place(name: str) -> bool:
        if name.startswith(PUBLISHED_TOWER):
            return is_unused(name.removeprefix(PUBLISHED_TOWER), num_layers)
        return name.endswith(".rotary_emb.inv_freq") or (
            name == PUBLISHED_OUTPUT_LAYER and config.model.llm.tie_word_embeddings
        )

    if published.kind == "a plain language model":
        wanted = {name: outline for name, outline in wanted.items() if name.startswith(LLM)}
        return _open_part(stored, wanted, config, has_no_place)
    if published.kind == "LLaVA-OneVision" and not has_memory:
        wanted = {name: outline for name, outline in wanted.items() if not name.startswith(MEMAUG)}
    if has_tower:
        if config.model.vision.weights:
            raise WeightsError(
                f"{folder} has a vision tower of its own: leave out model.vision.weights={config.model.vision.weights}"
            )
        return _open_part(stored, wanted, config, has_no_place)
    if not config.model.vision.weights:
        raise WeightsError(
            f"{folder} has no vision tower ({PUBLISHED_TOWER}*): give model.vision.weights=, a folder or {SAFE} file of a"
            " Hugging Face SigLIP, or one of open_clip's tags or files"
        )
    rest = {name: outline for name, outline in wanted.items() if not name.startswith(TOWER)}
    opened, tower = (
        _open_part(stored, rest, config, has_no_place),
        open_tower(config.model.vision, outlines),
    )
    return PretrainedWeights(opened.weights | tower.weights, opened.unused + tower.unused)


def open_tower(settings: VisionConfig, outlines: MetaTensors) -> PretrainedWeights:
    """The vision tower that `model.vision.weights` names: of a Hugging Face SigLIP, or of open_clip's.

    Raises:
        WeightsError: as `open_published`.
        ConfigError: it is no folder, no file and none of open_clip's tags.
    """
    path = Path(settings.weights)
    stored = (
        open_weights(path) if path.is_dir() or (path.suffix == SAFE and path.is_file()) else None
    )
    prefixes = [
        name.removesuffix(PATCHES)
        for name in (stored.meta_tensors if stored else ())
        if name.endswith(PATCHES)
    ]
    if stored is None or not (prefixes or path.is_dir()):
        encoder = VisionEncoder(settings)
        encoder.load_pretrained(settings.weights)
        state = {f"vision.{name}": weight for name, weight in encoder.state_dict().items()}
        return PretrainedWeights(
            StoredWeights(
                path, {name: weight.to("meta") for name, weight in state.items()}, state.__getitem__
            )
        )
    if len(prefixes) != 1:
        raise WeightsError(
            f"model.vision.weights={path} has to hold one SigLIP, with one {PATCHES}, and holds {len(prefixes)}"
        )
    (prefix,) = prefixes
    wanted = {name: outline for name, outline in outlines.items() if name.startswith(TOWER)}
    expected = {
        prefix + name.removeprefix(PUBLISHED_TOWER): shape
        for name, shape in shapes_of(hf_meta_tensors(wanted)).items()
    }
    num_layers = num_tower_layers(outlines)
    unused = [
        name
        for name in stored.meta_tensors
        if not name.startswith(prefix) or is_unused(name.removeprefix(prefix), num_layers)
    ]
    used = stored.subset(stored.meta_tensors.keys() - unused)
    check_floating_point(used)
    check_state_dict(expected, used.shapes, f"model.vision.weights={path}")
    return PretrainedWeights(
        from_hf(used.renamed(lambda name: PUBLISHED_TOWER + name.removeprefix(prefix)), wanted, 0),
        tuple(unused),
    )


def num_tower_layers(names: Collection[str]) -> int:
    """Blocks of the vision tower, up to the layer that is read."""
    blocks = f"{TOWER}trunk.blocks."
    return len(
        {name.removeprefix(blocks).partition(".")[0] for name in names if name.startswith(blocks)}
    )


def _open_part(
    stored: StoredWeights, wanted: MetaTensors, config: Config, has_no_place: Callable[[str], bool]
) -> PretrainedWeights:
    unused = tuple(filter(has_no_place, stored.meta_tensors))
    used = stored.subset(stored.meta_tensors.keys() - unused)
    check_floating_point(used)
    check_state_dict(shapes_of(hf_meta_tensors(wanted)), used.shapes, str(stored.path))
    return PretrainedWeights(from_hf(used, wanted, config.model.llm.hidden_size), unused)
