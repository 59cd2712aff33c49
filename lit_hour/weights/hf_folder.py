"""Open weights from elsewhere for a model: check everything, read nothing yet.

Start at `open_published`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_hour.config.model import VisionConfig
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.io.gguf_file import GGUF
from lit_hour.io.packaged_weights import EFFICIENTNET_LITE0
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.vision_encoder import VisionEncoder, check_weights
from lit_hour.weights.efficientnet import open_efficientnet
from lit_hour.weights.gguf_llm import open_gguf_weights
from lit_hour.weights.hf_config import PublishedConfig
from lit_hour.weights.name_map import (
    MEMAUG,
    PUBLISHED_EMBEDDING,
    PUBLISHED_MEMAUG,
    PUBLISHED_OUTPUT_LAYER,
    PUBLISHED_TOWER,
    TIME_EMBEDDING,
    TOWER,
    from_hf,
    hf_meta_tensors,
    is_unused,
)
from lit_hour.weights.reader import (
    OUTPUT_LAYER,
    SAFE,
    StoredWeights,
    check_floating_point,
    check_listed,
    check_state_dict,
    open_weights,
)

LLM = "llm."
PATCHES = "embeddings.patch_embedding.weight"  # marks a Hugging Face SigLIP, after any prefix

MetaTensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights for a model, ready to be read, and the names of stored weights without a use here."""

    weights: StoredWeights
    unused: tuple[str, ...] = ()


def meta_state_dict(config: Config, num_tokens: int) -> dict[str, Tensor]:
    """Return the state dict of a model on the device "meta": shapes and dtypes without data."""
    with torch.device("meta"):
        return dict(HourLLaVA.from_config(config, num_tokens).state_dict())


def drop_tied_output(meta_tensors: MetaTensors, config: Config) -> dict[str, Tensor]:
    """Drop a tied output layer, `(vocabulary, dim)`, which published files lack."""
    tied = config.model.llm.tie_word_embeddings
    return {
        name: meta for name, meta in meta_tensors.items() if not (tied and name == OUTPUT_LAYER)
    }


def open_published(
    published: PublishedConfig, config: Config, meta_tensors: MetaTensors
) -> PretrainedWeights:
    """Open the weights of a published model, and its vision tower from elsewhere if it lacks one.

    Args:
        published: its checked config.json.
        config: settings of the model to load.
        meta_tensors: state dict of that model. A plain language model provides the language model
            only, LLaVA-OneVision everything but MemAug.

    Raises:
        WeightsError: A file is missing or corrupt, or a weight is missing, unexpected or of another
            shape.
    """
    folder = published.source
    stored = open_gguf_weights(folder) if folder.suffix == GGUF else open_weights(folder)
    if config.model.llm.tie_word_embeddings:
        _check_tied_output(stored)
    wanted = {
        name: meta
        for name, meta in drop_tied_output(meta_tensors, config).items()
        if not name.startswith(TIME_EMBEDDING)
    }
    has_tower = any(name.startswith(PUBLISHED_TOWER) for name in stored.meta_tensors)
    has_memory = any(name.startswith(PUBLISHED_MEMAUG) for name in stored.meta_tensors)
    num_layers = num_tower_layers(meta_tensors)

    def is_unused_weight(name: str) -> bool:
        if name.startswith(PUBLISHED_TOWER):
            return is_unused(name.removeprefix(PUBLISHED_TOWER), num_layers)
        return name.endswith(".rotary_emb.inv_freq") or (
            name == PUBLISHED_OUTPUT_LAYER and config.model.llm.tie_word_embeddings
        )

    if published.kind == "a plain language model":
        wanted = {name: meta for name, meta in wanted.items() if name.startswith(LLM)}
        return _open_part(stored, wanted, config, is_unused_weight)
    if published.kind == "LLaVA-OneVision" and not has_memory:
        wanted = {name: meta for name, meta in wanted.items() if not name.startswith(MEMAUG)}
    if has_tower:
        if config.model.vision.weights:
            raise WeightsError(
                f"{folder} has its own vision tower."
                f" Remove model.vision.weights={config.model.vision.weights}."
            )
        return _open_part(stored, wanted, config, is_unused_weight)
    if not config.model.vision.weights:
        raise WeightsError(
            f"{folder} has no vision tower ({PUBLISHED_TOWER}*). Set model.vision.weights to a"
            f" folder or {SAFE} file of a Hugging Face SigLIP, or to a tag or file of open_clip."
        )
    rest = {name: meta for name, meta in wanted.items() if not name.startswith(TOWER)}
    opened, tower = (
        _open_part(stored, rest, config, is_unused_weight),
        open_tower(config.model.vision, meta_tensors),
    )
    return PretrainedWeights(opened.weights.merge(tower.weights), opened.unused + tower.unused)


def _check_tied_output(stored: StoredWeights) -> None:
    """Check that the output layer of a tied model, if it is stored, is the embedding.

    Raises:
        WeightsError: It is another one, which tying would drop.
    """
    embedding, output = (
        stored.meta_tensors.get(name) for name in (PUBLISHED_EMBEDDING, PUBLISHED_OUTPUT_LAYER)
    )
    if embedding is None or output is None:
        return
    if embedding.shape != output.shape or not torch.equal(
        stored.read(PUBLISHED_EMBEDDING), stored.read(PUBLISHED_OUTPUT_LAYER)
    ):
        raise WeightsError(
            f"{stored.path}: {PUBLISHED_OUTPUT_LAYER} differs from {PUBLISHED_EMBEDDING}, although"
            " config.json has tie_word_embeddings=true. Set it to false, or remove the weight."
        )


def open_tower(settings: VisionConfig, meta_tensors: MetaTensors) -> PretrainedWeights:
    """Open the vision tower of `model.vision.weights`: of Hugging Face, open_clip or a package.

    Raises:
        WeightsError: See `open_published`.
        ConfigError: The setting is neither a folder, a file nor a tag of open_clip.
    """
    if settings.weights == EFFICIENTNET_LITE0:
        return PretrainedWeights(*open_efficientnet(settings, meta_tensors))
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
        check_weights(settings.name, settings.weights)  # a large tower takes seconds to build
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
            f"model.vision.weights={path} must contain one SigLIP, with one {PATCHES}."
            f" It contains {len(prefixes)}."
        )
    (prefix,) = prefixes
    wanted = {name: meta for name, meta in meta_tensors.items() if name.startswith(TOWER)}
    expected = {
        prefix + name.removeprefix(PUBLISHED_TOWER): meta
        for name, meta in hf_meta_tensors(wanted).items()
    }
    num_layers = num_tower_layers(meta_tensors)
    unused = [
        name
        for name in stored.meta_tensors
        if not name.startswith(prefix) or is_unused(name.removeprefix(prefix), num_layers)
    ]
    used = stored.subset(stored.meta_tensors.keys() - unused)
    check_floating_point(used)
    check_listed(stored, expected)
    check_state_dict(expected, used.meta_tensors, f"model.vision.weights={path}")
    return PretrainedWeights(
        from_hf(used.renamed(lambda name: PUBLISHED_TOWER + name.removeprefix(prefix)), wanted, 0),
        tuple(unused),
    )


def num_tower_layers(names: Collection[str]) -> int:
    """Count the blocks of the vision tower, which ends at the layer that is read."""
    blocks = f"{TOWER}trunk.blocks."
    return len(
        {name.removeprefix(blocks).partition(".")[0] for name in names if name.startswith(blocks)}
    )


def _open_part(
    stored: StoredWeights,
    wanted: MetaTensors,
    config: Config,
    is_unused_weight: Callable[[str], bool],
) -> PretrainedWeights:
    unused = tuple(filter(is_unused_weight, stored.meta_tensors))
    used = stored.subset(stored.meta_tensors.keys() - unused)
    expected = hf_meta_tensors(wanted)
    check_floating_point(used)
    check_listed(stored, expected)
    check_state_dict(expected, used.meta_tensors, str(stored.path))
    return PretrainedWeights(from_hf(used, wanted, config.model.llm.hidden_size), unused)
