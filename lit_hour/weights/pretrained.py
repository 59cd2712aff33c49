"""A run's checkpoint, or the settings of a new run -> its vision encoder alone.

What a new run starts from: another run, a published model, or a plain language model and a vision tower."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from lit_hour.config.load import load_config
from lit_hour.config.model import LanguageConfig
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
    language_settings,
    read_published_config,
)
from lit_hour.weights.hf_folder import Opened, Outlines, open_published, open_tower, outline_model
from lit_hour.weights.name_map import MEMORY, OUTPUT_LAYER, may_lack_of, merge_adapters, plain_name
from lit_hour.weights.reader import StoredWeights, check_fit, load_into, open_weights, shapes_of

PREFIX = "vision."  # of the encoder's weights in a model


def load_encoder(config: Config, checkpoint: Path | None = None) -> VisionEncoder:
    """The vision encoder with the weights of a checkpoint; without one, with those that the settings start from.

    Raises:
        ConfigError: the settings name no weights, or `video.size_pixels` is not what the encoder takes.
        WeightsError, RunError: the weights are missing or damaged, or belong to another encoder.
    """
    stored = open_weights(checkpoint) if checkpoint else open_start(config)
    names = {name for name in (stored.outlines if stored else ()) if name.startswith(PREFIX)}
    if stored is None or not names:
        raise ConfigError(
            "these settings name no weights for the vision encoder, and what random ones see means nothing: give"
            " model.vision.weights or training.start_from, or a run with --run"
        )
    encoder = VisionEncoder(config.model.vision)
    if encoder.size_pixels != config.video.size_pixels:
        raise ConfigError(
            f"video.size_pixels={config.video.size_pixels}, but {config.model.vision.name} takes {encoder.size_pixels}:"
            f" set video.size_pixels={encoder.size_pixels}"
        )
    weights = stored.only(names).renamed(lambda name: name.removeprefix(PREFIX))
    check_fit(
        shapes_of(encoder.state_dict()), weights.shapes, f"the vision encoder of {stored.path}"
    )
    load_into(encoder, weights.tensors())
    return encoder


log = logging.getLogger("lit_hour")


def config_for_new_run(config: Config) -> Config:
    """The settings with the sizes of the language model that `training.start_from` or `model.language.folder` holds.

    All weights that the settings name are looked at, so that nothing is built or written for those that do not fit.

    Raises:
        WeightsError, RunError: there is no such model, one that would be computed differently here, or a weight that is
            missing, left over or of another shape.
        ConfigError: both are given, or the tokenizer has more tokens than the language model.
    """
    language = config.model.language
    if config.training.start_from and language.folder:
        raise ConfigError(
            f"training.start_from={config.training.start_from} brings a language model: leave out"
            f" model.language.folder={language.folder}"
        )
    if config.training.start_from and config.text.tokenizer != BYTE_LEVEL:
        raise ConfigError(
            f"training.start_from={config.training.start_from} brings a tokenizer: leave out"
            f" text.tokenizer={config.text.tokenizer}"
        )
    if config.training.start_from or language.folder:
        config = replace(config, model=replace(config.model, language=_language_at_start(config)))
        check_config(config)
        log.info("language model: the sizes of %s", config.training.start_from or language.folder)
    open_start(config)
    return config


def open_start(config: Config) -> StoredWeights | None:
    """The weights that the settings name, looked at and not read; None where they name none.

    Raises:
        WeightsError, RunError, ConfigError: there are none, or a weight is missing, left over or of another shape.
    """
    if not (
        config.training.start_from or config.model.language.folder or config.model.vision.weights
    ):
        return None
    tokenizer = starting_tokenizer(config)
    model = outline_model(config, num_tokens=len(load_tokenizer(tokenizer)) if tokenizer else 1)
    opened = _open_start(
        config, {plain: model[name] for plain, name in _without_adapters(model).items()}
    )
    return opened.weights if opened else None


def starting_tokenizer(config: Config) -> Path | None:
    """The folder of the tokenizer that a new run takes: of what it starts from, or `text.tokenizer`, or of the language
    model; None for one that is learnt.

    Raises:
        RunError: `training.start_from` is neither a run nor a published model.
    """
    source = Path(config.training.start_from)
    if config.training.start_from and not is_published(source):
        RunDir(source).checkpoint()
        return RunDir(source).tokenizer
    if config.training.start_from:
        return source
    named = (
        config.text.tokenizer
        if config.text.tokenizer != BYTE_LEVEL
        else config.model.language.folder
    )
    return Path(named) if named else None


def load_starting_weights(model: HourLLaVA, config: Config) -> set[str]:
    """Put the weights into a new model that its settings name; what they do not name stays random.

    Returns:
        The names of the model's weights that were put there.

    Raises:
        WeightsError, RunError, ConfigError: there are none, or a weight is missing, left over or of another shape.
    """
    state = model.state_dict()  # which may be sharded: an outline is of the whole
    name_of = _without_adapters(state)
    outlines = {
        plain: torch.empty(state[name].shape, dtype=state[name].dtype, device="meta")
        for plain, name in name_of.items()
    }
    opened = _open_start(config, outlines)
    if opened is None:
        return set()
    load_into(model, ((name_of[plain], weight) for plain, weight in opened.weights.tensors()))
    log.info("weights: %d from %s", len(opened.weights.outlines), opened.weights.path)
    if opened.unused:
        log.info("weights that have no place here: %s", ", ".join(opened.unused))
    random = sorted(
        {
            plain.partition(".")[0]
            for plain in outlines.keys() - opened.weights.outlines.keys() - {OUTPUT_LAYER}
        }
    )
    if random:
        log.info("parts with random weights: %s", ", ".join(random))
    return {name_of[plain] for plain in opened.weights.outlines}


def _without_adapters(names: Iterable[str]) -> dict[str, str]:
    """The weights that are no part of an adapter: the name that each has in a model without adapters, and its own."""
    return {plain: name for name in names if (plain := plain_name(name)) is not None}


def _language_at_start(config: Config) -> LanguageConfig:
    """The sizes of the language model, with the adapters and all else that this run's settings say."""
    wanted, source = config.model.language, Path(config.training.start_from)
    if config.training.start_from and not is_published(source):
        found = load_config(RunDir(source).checkpoint().with_suffix(".yaml")).model.language
        return replace(found, lora=wanted.lora, folder="")
    return replace(wanted, **language_settings(_published_start(config)))


def _published_start(config: Config) -> PublishedConfig:
    """The model in the Hugging Face layout that the settings name, which has to be of the kind that its setting takes."""
    folder, is_plain = (
        config.training.start_from or config.model.language.folder,
        not config.training.start_from,
    )
    published = read_published_config(Path(folder))
    if (published.kind == "a plain language model") != is_plain:
        right = "training.start_from" if is_plain else "model.language.folder"
        raise WeightsError(f"{folder} is {published.kind}: give it as {right}={folder}")
    return published


def _open_start(config: Config, outlines: Outlines) -> Opened | None:
    start_from, tower = config.training.start_from, config.model.vision.weights
    if start_from and not is_published(Path(start_from)):
        return _open_run(RunDir(Path(start_from)), config, outlines)
    if start_from:
        return open_published(_published_start(config), config, outlines)
    opened = (
        [open_published(_published_start(config), config, outlines)]
        if config.model.language.folder
        else []
    )
    opened += [open_tower(config.model.vision, outlines)] if tower else []
    if len(opened) == 2:
        return Opened(opened[0].weights | opened[1].weights, opened[0].unused + opened[1].unused)
    return opened[0] if opened else None


def _open_run(run: RunDir, config: Config, outlines: Outlines) -> Opened:
    if config.model.vision.weights:
        raise ConfigError(
            f"training.start_from={run.path} brings a vision tower: leave out"
            f" model.vision.weights={config.model.vision.weights}"
        )
    file = run.checkpoint()
    before = load_config(file.with_suffix(".yaml")).model
    stored = merge_adapters(open_weights(file), before.language.lora)
    is_tied, begins_memory = may_lack_of(config), not before.memory.num_layers
    check_fit(
        shapes_of(outlines),
        stored.shapes,
        f"training.start_from={run.path}: {file}",
        may_lack=lambda name: is_tied(name) or (begins_memory and name.startswith(MEMORY)),
    )
    return Opened(stored)
