"""Initialize a new run from pretrained weights.

The source is another run, a published model, or a plain language model and a vision tower. Start at
`config_for_new_run`, then `open_pretrained` checks the weights and `load_pretrained_weights` loads
them.
"""

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
from lit_hour.errors import ConfigError, RunError, WeightsError, download_hint
from lit_hour.io.gguf_file import GGUF
from lit_hour.io.packaged_weights import SMOLLM2, find_packaged_weights
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LANGUAGE_MODELS
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import BYTE_LEVEL, load_tokenizer
from lit_hour.weights.base_weights import BaseRecord, record_base, verified, with_sources
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
    TIME_EMBEDDING,
    merge_adapters,
    plain_name,
)
from lit_hour.weights.peft_adapter import adapter_settings, open_adapter
from lit_hour.weights.reader import (
    CHECKPOINT,
    OUTPUT_LAYER,
    StoredWeights,
    check_state_dict,
    load_into,
    open_weights,
    optional_weights,
    read_checkpoint,
)

SHIPPED_LANGUAGE_MODELS = ("lit-hour-lm",)  # folders of the package
VISION_PREFIX = "vision."  # state-dict prefix of the vision encoder
log = logging.getLogger(__name__)


def load_vision_encoder(config: Config, checkpoint: Path | None = None) -> VisionEncoder:
    """Build the vision encoder with a checkpoint's or the configured pretrained weights.

    Args:
        config: settings of the run.
        checkpoint: checkpoint to read; None for `training.init_from` or `model.vision.weights`.

    Raises:
        ConfigError: The settings name no weights, or `video.image_size` does not match the encoder.
        WeightsError, RunError: The weights are missing, corrupt, or of another encoder.
    """
    stored = open_run_weights(checkpoint, config) if checkpoint else open_pretrained(config)
    names = {
        name for name in (stored.meta_tensors if stored else ()) if name.startswith(VISION_PREFIX)
    }
    if stored is None or not names:
        raise ConfigError(
            "The settings name no weights for the vision encoder, and features of random weights"
            " are useless. Set model.vision.weights or training.init_from, or give --run RUN."
        )
    encoder = VisionEncoder(config.model.vision)
    if encoder.image_size != config.video.image_size:
        raise ConfigError(
            f"video.image_size={config.video.image_size} does not match {config.model.vision.name}."
            f" Set video.image_size={encoder.image_size}."
        )
    weights = stored.subset(names).renamed(lambda name: name.removeprefix(VISION_PREFIX))
    check_state_dict(
        encoder.state_dict(), weights.meta_tensors, f"the vision encoder of {stored.path}"
    )
    load_into(encoder, weights.tensors())
    return encoder


def config_for_new_run(config: Config) -> Config:
    """Fill in the sizes of the language model that `training.init_from` or `model.llm.path` names.

    `open_pretrained` checks the weights themselves.

    Raises:
        WeightsError, RunError: The model is missing or unsupported.
        ConfigError: Both settings are given, or a tokenizer beside `training.init_from`.
    """
    language = config.model.llm
    if language.lora.path:
        if not (config.training.init_from or language.path):
            raise ConfigError(
                f"model.llm.lora.path={language.lora.path} is an adapter of a language model. Name"
                " this in model.llm.path, or in training.init_from."
            )
        lora = replace(language.lora, **adapter_settings(Path(language.lora.path)))
        language = replace(language, lora=lora)
        config = replace(config, model=replace(config.model, llm=language))
    if config.training.init_from and language.path:
        raise ConfigError(
            f"training.init_from={config.training.init_from} includes a language model."
            f" Remove model.llm.path={language.path}."
        )
    if config.training.init_from and config.text.tokenizer != BYTE_LEVEL:
        raise ConfigError(
            f"training.init_from={config.training.init_from} includes a tokenizer."
            f" Remove text.tokenizer={config.text.tokenizer}."
        )
    if config.training.init_from or language.path:
        config = replace(config, model=replace(config.model, llm=_pretrained_llm_config(config)))
        check_config(config)
        log.info("Language model: sizes from %s", config.training.init_from or language.path)
    return config


def open_pretrained(config: Config) -> StoredWeights | None:
    """Open the configured pretrained weights and check that they fit; return None without any.

    Only names, shapes and dtypes are read.

    Args:
        config: as `config_for_new_run` returns it.

    Raises:
        WeightsError, RunError: The source is missing, or a weight is missing, unexpected or of
            another shape.
        ConfigError: The tokenizer has more tokens than the embedding, or the settings name two
            vision encoders.
    """
    if not (config.training.init_from or config.model.llm.path or config.model.vision.weights):
        return None
    tokenizer = pretrained_tokenizer(config)
    model = meta_state_dict(config, num_tokens=len(load_tokenizer(tokenizer)) if tokenizer else 1)
    opened = _open_pretrained(
        config, {plain: model[name] for plain, name in _base_names(model).items()}
    )
    if config.model.llm.lora.path:
        open_adapter(Path(config.model.llm.lora.path), model)
    return opened.weights if opened else None


def open_run_weights(path: Path, config: Config) -> StoredWeights:
    """Open all weights of a checkpoint: those that it holds, and the frozen ones of its base.

    Args:
        path: a checkpoint of a run, or the folder of a converted model.
        config: its settings.

    Raises:
        WeightsError, RunError: The checkpoint or its base is missing or corrupt. Reading a weight
            raises `WeightsError` if the base is not the one that the run was trained on.
    """
    stored = open_weights(path)
    record = BaseRecord.of_checkpoint(read_checkpoint(path)) if path.suffix == CHECKPOINT else None
    if record is None:
        return stored
    return replace(open_base(record, config, str(path)).merge(stored), path=path)


def open_base(record: BaseRecord, config: Config, origin: str) -> StoredWeights:
    """Open the weights that a checkpoint leaves out; each is verified when it is read.

    Args:
        record: the checkpoint's record of them.
        config: its settings.
        origin: names the checkpoint in errors.

    Raises:
        WeightsError, RunError, ConfigError: The base is missing or of another model.
    """
    base = open_pretrained(with_sources(config, record))
    if base is None:
        raise WeightsError(
            f"{origin} lacks its frozen weights, and its settings name no source of them. Set"
            f" {' '.join(f'{key}={value}' for key, value in record.sources.items())}."
        )
    name_of = {name: str(plain_name(name)) for name in record.digests}
    return verified(base, name_of, record, origin)


def record_frozen_base(config: Config, frozen: Iterable[str]) -> BaseRecord | None:
    """Hash the frozen weights that the configured source brings; return None without any.

    Args:
        config: settings of the run.
        frozen: names of the weights of its model that do not change.
    """
    base = open_pretrained(config)
    if base is None:
        return None
    name_of = {
        plain: name for plain, name in _base_names(frozen).items() if plain in base.meta_tensors
    }
    return record_base(config, base, name_of) if name_of else None


def pretrained_tokenizer(config: Config) -> Path | None:
    """Return the folder or GGUF file of a new run's tokenizer; None if it is trained from the data.

    Raises:
        RunError: `training.init_from` is neither a run nor a published model.
        WeightsError: `text.tokenizer` or `model.llm.path` is not a folder or a GGUF file.
    """
    source = Path(config.training.init_from)
    if config.training.init_from and not is_published(source):
        _initial_checkpoint(source)
        return RunDir(source).tokenizer
    if config.training.init_from:
        return source
    if config.text.tokenizer != BYTE_LEVEL:
        return _find_language_model("text.tokenizer", config.text.tokenizer)
    path = config.model.llm.path
    return _find_language_model("model.llm.path", path) if path else None


def load_pretrained_weights(model: HourLLaVA, config: Config) -> set[str]:
    """Load the configured pretrained weights into a new model; all others stay random.

    Returns:
        Names of the loaded weights.

    Raises:
        WeightsError, RunError, ConfigError: The source is missing, or a weight is missing,
            unexpected or of another shape.
    """
    if not (config.training.init_from or config.model.llm.path or config.model.vision.weights):
        return set()
    state = model.state_dict()  # may be sharded; meta tensors have the full shapes
    name_of = _base_names(state)
    meta_tensors = {
        plain: torch.empty(state[name].shape, dtype=state[name].dtype, device="meta")
        for plain, name in name_of.items()
    }
    opened = _open_pretrained(config, meta_tensors)
    assert opened is not None
    load_into(model, ((name_of[plain], weight) for plain, weight in opened.weights.tensors()))
    adapter: set[str] = set()
    if config.model.llm.lora.path:
        stored = open_adapter(Path(config.model.llm.lora.path), state)
        load_into(model, stored.tensors())
        adapter = set(stored.meta_tensors)
    log.info("Weights: %d loaded from %s", len(opened.weights.meta_tensors), opened.weights.path)
    if opened.unused:
        log.info("Unused weights: %s", ", ".join(opened.unused))
    new = meta_tensors.keys() - opened.weights.meta_tensors.keys() - {OUTPUT_LAYER}
    random = sorted(
        {plain.partition(".")[0] for plain in new if not plain.startswith(TIME_EMBEDDING)}
    )
    if random:
        log.info("Randomly initialized: %s", ", ".join(random))
    return {name_of[plain] for plain in opened.weights.meta_tensors} | adapter


def _base_names(names: Iterable[str]) -> dict[str, str]:
    """Map each weight's name without LoRA to its name in this model; adapters are left out."""
    return {plain: name for name in names if (plain := plain_name(name)) is not None}


def _pretrained_llm_config(config: Config) -> LLMConfig:
    """Return the pretrained language model's sizes with this run's adapters and other settings."""
    wanted, source = config.model.llm, Path(config.training.init_from)
    if config.training.init_from and not is_published(source):
        found = load_config(_initial_checkpoint(source).with_suffix(".yaml")).model.llm
        return replace(found, lora=wanted.lora, quantize=wanted.quantize, path="")
    return replace(wanted, **llm_settings(_read_pretrained_config(config)))


def _initial_checkpoint(source: Path) -> Path:
    """Return the checkpoint of the run that `training.init_from` names.

    Raises:
        RunError: the folder is missing, or is not that of a run with checkpoints.
    """
    if source.is_dir() and RunDir(source).checkpoints.is_dir():
        return RunDir(source).checkpoint()
    problem = "is neither a run nor a published model" if source.is_dir() else "does not exist"
    raise RunError(
        f"training.init_from={source} {problem}. Give the folder of a run, of LLaVA-OneVision or"
        " of Hour-LLaVA; or start from a language model: training.init_from="
        f" model.llm.path=FOLDER text.tokenizer=FOLDER.{download_hint(source)}"
    )


def _find_language_model(setting: str, name: str) -> Path:
    """Return the folder or GGUF file of a Hugging Face model or tokenizer.

    Raises:
        WeightsError: There is none of this name.
    """
    if name == SMOLLM2:
        return find_packaged_weights(SMOLLM2, setting)
    if name in SHIPPED_LANGUAGE_MODELS:
        return LANGUAGE_MODELS / name
    path = Path(name)
    if not path.is_dir() and not (path.suffix == GGUF and path.is_file()):
        raise WeightsError(
            f"{setting}={name} is not a folder. Give one in the Hugging Face layout, or a {GGUF}"
            f" file.{download_hint(name)}"
        )
    return path


def _read_pretrained_config(config: Config) -> PublishedConfig:
    """Read the configured Hugging Face model; its kind has to match its setting."""
    is_plain = not config.training.init_from
    source = (
        _find_language_model("model.llm.path", config.model.llm.path)
        if is_plain
        else Path(config.training.init_from)
    )
    published = read_published_config(source)
    if (published.kind == "a plain language model") != is_plain:
        right = "training.init_from" if is_plain else "model.llm.path"
        raise WeightsError(f"{source} is {published.kind}. Set {right}={source} instead.")
    return published


def _open_pretrained(config: Config, meta_tensors: MetaTensors) -> PretrainedWeights | None:
    start_from, tower = config.training.init_from, config.model.vision.weights
    if start_from and not is_published(Path(start_from)):
        return _open_run(RunDir(Path(start_from)), config, meta_tensors)
    if start_from:
        return open_published(_read_pretrained_config(config), config, meta_tensors)
    opened = (
        [open_published(_read_pretrained_config(config), config, meta_tensors)]
        if config.model.llm.path
        else []
    )
    opened += [open_tower(config.model.vision, meta_tensors)] if tower else []
    if len(opened) == 2:
        return PretrainedWeights(
            opened[0].weights.merge(opened[1].weights), opened[0].unused + opened[1].unused
        )
    return opened[0] if opened else None


def _open_run(run: RunDir, config: Config, meta_tensors: MetaTensors) -> PretrainedWeights:
    if config.model.vision.weights:
        raise ConfigError(
            f"training.init_from={run.path} includes a vision tower."
            f" Remove model.vision.weights={config.model.vision.weights}."
        )
    file = _initial_checkpoint(run.path)
    settings = load_config(file.with_suffix(".yaml"))
    before = settings.model
    stored = merge_adapters(open_run_weights(file, settings), before.llm.lora)
    is_tied, begins_memory = optional_weights(config), not before.memaug.num_layers
    begins_times = settings.text.frame_times != "embedding"
    check_state_dict(
        meta_tensors,
        stored.meta_tensors,
        f"training.init_from={run.path}: {file}",
        optional=lambda name: (
            is_tied(name)
            or (begins_memory and name.startswith(MEMAUG))
            or (begins_times and name.startswith(TIME_EMBEDDING))
        ),
    )
    return PretrainedWeights(stored)
