"""A run's checkpoint, or the settings of a new run -> its vision encoder alone.

What a new run starts from: another run, a published model, or a plain language model and a vision tower."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from lit_hour.config.load import load_config
from lit_hour.config.model import LLMConfig
from lit_hour.config.schema import Config
from lit_hour.config.validate import check_config
from lit_hour.errors import ConfigError, WeightsError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import BYTE_LEVEL, load_tokenizer
from lit_hour.weights.hf_config import (
    PublishedConfig,
    is_published,
    llm_settings,
    read_published_config,
)
from lit_hour.weights.hf_folder import (
    MetaTensors,
    PretrainedWeights,
    meta_state_dict,
    open_published,
    open_tower,
)
from lit_hour.weights.name_map import (
    MEMAUG,
    OUTPUT_LAYER,
    merge_adapters,
    optional_weights,
    plain_name,
)
from lit_hour.weights.reader import (
    StoredWeights,
    check_state_dict,
    load_into,
    open_weights,
    shapes_of,
)

PREFIX = "vision."  # of the encoder's weights in a model


def load_vision_encoder(config: Config, checkpoint: Path | None = None) -> VisionEncoder:
    """The vision encoder with the weights of a checkpoint; without one, with those that the settings start from.

    Raises:
        ConfigError: the settings name no weights, or `video.image_size` is not what the encoder takes.
        WeightsError, RunError: the weights are missing or damaged, or belong to another encoder.
    """
    stored = open_weights(checkpoint) if checkpoint else open_pretrained(config)
    names = {name for name in (stored.meta_tensors if stored else ()) if name.startswith(PREFIX)}
    if stored is None or not names:
        raise ConfigError(
            "these settings name no weights for the vision encoder, and what random ones see means nothing: give"
            " model.vision.weights or training.init_from, or a run with --run"
        )
    encoder = VisionEncoder(config.model.vision)
    if encoder.image_size != config.video.image_size:
        raise ConfigError(
            f"video.image_size={config.video.image_size}, but {config.model.vision.name} takes {encoder.image_size}:"
            f" set video.image_size={encoder.image_size}"
        )
    weights = stored.subset(names).renamed(lambda name: name.removeprefix(PREFIX))
    check_state_dict(
        shapes_of(encoder.state_dict()), weights.shapes, f"the vision encoder of {stored.path}"
    )
    load_into(encoder, weights.tensors())
    return encoder


log = logging.getLogger("lit_hour")


def config_for_new_run(config: Config) -> Config:
    """The settings with the sizes of the language model that `training.init_from` or `model.llm.path` holds.

    All weights that the settings name are looked at, so that nothing is built or written for those that do not fit.

    Raises:
        WeightsError, RunError: there is no such model, one that would be computed differently here, or a weight that is
            missing, left over or of another shape.
        ConfigError: both are given, or the tokenizer has more tokens than the language model.
    """
    language = config.model.llm
    if config.training.init_from and language.path:
        raise ConfigError(
            f"training.init_from={config.training.init_from} brings a language model: leave out"
            f" model.llm.path={language.path}"
        )
    if config.training.init_from and config.text.tokenizer != BYTE_LEVEL:
        raise ConfigError(
            f"training.init_from={config.training.init_from} brings a tokenizer: leave out"
            f" text.tokenizer={config.text.tokenizer}"
        )
    if config.training.init_from or language.path:
        config = replace(config, model=replace(config.model, llm=_pretrained_llm_config(config)))
        check_config(config)
        log.info("language model: the sizes of %s", config.training.init_from or language.path)
    open_pretrained(config)
    return config


def open_pretrained(config: Config) -> StoredWeights | None:
    """The weights that the settings name, looked at and not read; None where they name none.

    Raises:
        WeightsError, RunError, ConfigError: there are none, or a weight is missing, left over or of another shape.
    """
    if not (config.training.init_from or config.model.llm.path or config.model.vision.weights):
        return None
    tokenizer = pretrained_tokenizer(config)
    model = meta_state_dict(config, num_tokens=len(load_tokenizer(tokenizer)) if tokenizer else 1)
    opened = _open_pretrained(
        config, {plain: model[name] for plain, name in _base_names(model).items()}
    )
    return opened.weights if opened else None


def pretrained_tokenizer(config: Config) -> Path | None:
    """The folder of the tokenizer that a new run takes: of what it starts from, or `text.tokenizer`, or of the language
    model; None for one that is learnt.

    Raises:
        RunError: `training.init_from` is neither a run nor a published model.
    """
    source = Path(config.training.init_from)
    if config.training.init_from and not is_published(source):
        RunDir(source).checkpoint()
        return RunDir(source).tokenizer
    if config.training.init_from:
        return source
    named = config.text.tokenizer if config.text.tokenizer != BYTE_LEVEL else config.model.llm.path
    return Path(named) if named else None


def load_pretrained_weights(model: HourLLaVA, config: Config) -> set[str]:
    """Put the weights into a new model that its settings name; what they do not name stays random.

    Returns:
        The names of the model's weights that were put there.

    Raises:
        WeightsError, RunError, ConfigError: there are none, or a weight is missing, left over or of another shape.
    """
    state = model.state_dict()  # which may be sharded: an outline is of the whole
    name_of = _base_names(state)
    outlines = {
        plain: torch.empty(state[name].shape, dtype=state[name].dtype, device="meta")
        for plain, name in name_of.items()
    }
    opened = _open_pretrained(config, outlines)
    if opened is None:
        return set()
    load_into(model, ((name_of[plain], weight) for plain, weight in opened.weights.tensors()))
    log.info("weights: %d from %s", len(opened.weights.meta_tensors), opened.weights.path)
    if opened.unused:
        log.info("weights that have no place here: %s", ", ".join(opened.unused))
    random = sorted(
        {
            plain.partition(".")[0]
            for plain in outlines.keys() - opened.weights.meta_tensors.keys() - {OUTPUT_LAYER}
        }
    )
    if random:
        log.info("parts with random weights: %s", ", ".join(random))
    return {name_of[plain] for plain in opened.weights.meta_tensors}


def _base_names(names: Iterable[str]) -> dict[str, str]:
    """The weights that are no part of an adapter: the name that each has in a model without adapters, and its own."""
    return {plain: name for name in names if (plain := plain_name(name)) is not None}


def _pretrained_llm_config(config: Config) -> LLMConfig:
    """The sizes of the language model, with the adapters and all else that this run's settings say."""
    wanted, source = config.model.llm, Path(config.training.init_from)
    if config.training.init_from and not is_published(source):
        found = load_config(RunDir(source).checkpoint().with_suffix(".yaml")).model.llm
        return replace(found, lora=wanted.lora, path="")
    return replace(wanted, **llm_settings(_read_pretrained_config(config)))


def _read_pretrained_config(config: Config) -> PublishedConfig:
    """The model in the Hugging Face layout that the settings name, which has to be of the kind that its setting takes."""
    folder, is_plain = (
        config.training.init_from or config.model.llm.path,
        not config.training.init_from,
    )
    published = read_published_config(Path(folder))
    if (published.kind == "a plain language model") != is_plain:
        right = "training.init_from" if is_plain else "model.llm.path"
        raise WeightsError(f"{folder} is {published.kind}: give it as {right}={folder}")
    return published


def _open_pretrained(config: Config, outlines: MetaTensors) -> PretrainedWeights | None:
    start_from, tower = config.training.init_from, config.model.vision.weights
    if start_from and not is_published(Path(start_from)):
        return _open_run(RunDir(Path(start_from)), config, outlines)
    if start_from:
        return open_published(_read_pretrained_config(config), config, outlines)
    opened = (
        [open_published(_read_pretrained_config(config), config, outlines)]
        if config.model.llm.path
        else []
    )
    opened += [open_tower(config.model.vision, outlines)] if tower else []
    if len(opened) == 2:
        return PretrainedWeights(
            opened[0].weights | opened[1].weights, opened[0].unused + opened[1].unused
        )
    return opened[0] if opened else None


def _open_run(run: RunDir, config: Config, outlines: MetaTensors) -> PretrainedWeights:
    if config.model.vision.weights:
        raise ConfigError(
            f"training.init_from={run.path} brings a vision tower: leave out"
            f" model.vision.weights={config.model.vision.weights}"
        )
    file = run.checkpoint()
    before = load_config(file.with_suffix(".yaml")).model
    stored = merge_adapters(open_weights(file), before.llm.lora)
    is_tied, begins_memory = optional_weights(config), not before.memaug.num_layers
    check_state_dict(
        shapes_of(outlines),
        stored.shapes,
        f"training.init_from={run.path}: {file}",
        optional=lambda name: is_tied(name) or (begins_memory and name.startswith(MEMAUG)),
    )
    return PretrainedWeights(stored)
