"""Check settings: names and types before a merge, ranges and combinations after it.

Every error is a `ConfigError` that names the setting, its value and where the value comes from.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

from lit_hour.config.data import DataConfig
from lit_hour.config.hints import RENAMED_VALUES, present_name, suggest_settings
from lit_hour.config.introspect import FieldInfo, describe_range, describe_type, walk_schema
from lit_hour.config.model import LORA_TARGETS
from lit_hour.config.schema import Config
from lit_hour.config.training import PREFERENCE_OBJECTIVES, TrainingConfig
from lit_hour.errors import ConfigError

SCHEMA = {info.name: info for info in walk_schema()}  # every setting and section by full name
RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
SOURCE_NAME = re.compile(r"[A-Za-z0-9_-]+")


def check_names(settings: dict[str, Any], origin: str) -> None:
    """Check that every name is in the schema and every value can be one of its setting.

    Args:
        settings: nested as the schema is; any part of it may be absent.
        origin: the file or command line that they come from, for the error.

    Raises:
        ConfigError: a name is unknown, a section is given a value, or a setting a mapping, a list
            or null.
    """
    for name, value in _flatten(settings, "", origin):
        info = find_field(name, origin)
        if info.is_section:
            if value != {}:
                raise ConfigError(
                    f"'{name}' ({origin}) is a section of settings."
                    f" Set one of them, such as {_first_setting(name)}=..., not {name}={value}."
                )
        elif value is None or isinstance(value, dict | list | tuple):
            written = "null" if value is None else repr(value)
            raise ConfigError(f"{name} ({origin}) must be {describe_type(info)}, not {written}.")
        elif isinstance(value, str) and ("${" in value or value == "???"):
            raise ConfigError(
                f"{name}={value} ({origin}) is not allowed:"
                " '${' and a lone '???' have a meaning of their own in omegaconf."
            )


def find_field(name: str, origin: str) -> FieldInfo:
    """Return the schema's entry for a full name such as `data.sources.videomarathon.weight`.

    Raises:
        ConfigError: the name is unknown, or that of a source cannot be used on the command line.
    """
    schema_name, source = _split_source(name)
    if source is not None and not SOURCE_NAME.fullmatch(source):
        raise ConfigError(
            f"'{name}' ({origin}): the name of a source may have letters, digits, '_' and '-',"
            f" not {source!r}."
        )
    if schema_name not in SCHEMA:
        if present := present_name(name):
            values = RENAMED_VALUES.get(name, "")
            raise ConfigError(f"'{name}' ({origin}) was renamed to '{present}'.{values}")
        raise ConfigError(f"Unknown setting '{name}' ({origin}).{did_you_mean(name)}")
    return SCHEMA[schema_name]


def did_you_mean(name: str) -> str:
    """Return the sentence that suggests settings for an unknown name."""
    if similar := suggest_settings(name, SCHEMA):
        names = " or ".join(f"'{full_name}'" for full_name in similar)
        return f" Did you mean {names}?"
    return " `python train.py --help` lists every setting."


def wrong_type(name: str, settings: dict[str, Any], origin: str) -> ConfigError:
    """Return the error for a value that cannot be converted to the type of its setting."""
    value = dict(_flatten(settings, "", origin))[name]
    expected = describe_type(find_field(name, origin))
    return ConfigError(f"{name}={value} ({origin}) must be {expected}.")


def check_config(config: Config) -> None:
    """Check ranges, `run.name`, and settings that are valid alone and contradict each other.

    Raises:
        ConfigError: a setting cannot be used.
    """
    check_ranges(config, "")
    if not RUN_NAME.fullmatch(config.run.name):
        raise ConfigError(
            f"run.name={config.run.name!r} must name a folder:"
            " letters, digits, '.', '_' and '-', not starting with '.'."
        )
    video, memaug, llm, data = config.video, config.model.memaug, config.model.llm, config.data
    if config.pack.num_workers == 0:
        raise ConfigError(
            "pack.num_workers=0 starts no process that packs. Set -1 for one per core."
        )
    if video.min_frames > video.max_frames:
        raise ConfigError(
            f"video.min_frames={video.min_frames} must not exceed"
            f" video.max_frames={video.max_frames}."
        )
    if llm.num_heads % llm.num_key_value_heads:
        raise ConfigError(
            f"model.llm.num_heads={llm.num_heads} must be a multiple of"
            f" model.llm.num_key_value_heads={llm.num_key_value_heads}."
        )
    if llm.hidden_size % (4 * llm.num_heads):
        raise ConfigError(
            f"model.llm.hidden_size={llm.hidden_size} must be a multiple of"
            f" 4 * model.llm.num_heads={4 * llm.num_heads}:"
            " MemAug applies rotary embedding to pairs in half of each head."
        )
    stride = memaug.spatial_keep_ratio**-0.5
    is_uniform = "uniform" in (memaug.spatial_forgetting, memaug.eval_spatial_forgetting)
    if is_uniform and abs(stride - round(stride)) > 1e-6:
        raise ConfigError(
            f"model.memaug.spatial_keep_ratio={memaug.spatial_keep_ratio:g} must be"
            " 1, 1/4, 1/9, ... for uniform forgetting, which keeps every n-th row and column."
        )
    training = config.training
    if 0 < training.schedule_steps < training.max_steps:
        raise ConfigError(
            f"training.max_steps={training.max_steps} must not exceed"
            f" training.schedule_steps={training.schedule_steps}: the learning rates of later steps"
            " would be 0. Raise training.schedule_steps, or set it to 0."
        )
    _check_batches(data)
    _check_forgetting(config)
    _check_objective(config)
    _check_lora(config)
    _check_sharding(training)


def _check_forgetting(config: Config) -> None:
    """Check what has to know the kept frames before the model has encoded the video."""
    memaug = config.model.memaug
    if memaug.temporal_forgetting in ("uniform", "none"):
        return
    if config.text.subtitles == "kept":
        raise ConfigError(
            "text.subtitles=kept needs frames that are known before the model runs, not"
            f" model.memaug.temporal_forgetting={memaug.temporal_forgetting}. Set"
            " text.subtitles=all."
        )
    if config.text.frame_times == "text":
        raise ConfigError(
            "text.frame_times=text needs frames that are known before the model runs, not"
            f" model.memaug.temporal_forgetting={memaug.temporal_forgetting}. Set"
            " text.frame_times=embedding."
        )
    if memaug.shard_memory:
        raise ConfigError(
            "model.memaug.shard_memory=true needs frames that are chosen without their tokens, not"
            f" model.memaug.temporal_forgetting={memaug.temporal_forgetting}. Set it to uniform, or"
            " shard_memory to false."
        )


def _check_objective(config: Config) -> None:
    training = config.training
    if training.objective in PREFERENCE_OBJECTIVES:
        _check_preference_objective(config)
    if training.objective == "answer_words" and (
        training.learning_rate.llm > 0 or training.strategy == "fsdp"
    ):
        raise ConfigError(
            "training.objective=answer_words does not run the language model: neither"
            f" training.learning_rate.llm={training.learning_rate.llm:g} nor"
            f" training.strategy={training.strategy} may need it. Set training.learning_rate.llm=0,"
            " and no fsdp."
        )


def _check_lora(config: Config) -> None:
    """Check the adapted layers, and the precision of the frozen weights."""
    lora, precision = config.model.llm.lora, config.training.precision
    unknown = [name for name in lora.targets.split(",") if name not in (*LORA_TARGETS, "all")]
    if unknown or (lora.targets != "all" and "all" in lora.targets.split(",")):
        raise ConfigError(
            f"model.llm.lora.targets={lora.targets} must be all, or names separated by commas:"
            f" {', '.join(LORA_TARGETS)}."
        )
    if lora.base_precision == "bf16" and precision == "32-true":
        raise ConfigError(
            "model.llm.lora.base_precision=bf16 cannot be used with"
            f" training.precision={precision}. Set training.precision=bf16-mixed, or"
            " base_precision=fp32."
        )


def _check_preference_objective(config: Config) -> None:
    """Check what DPO and GRPO need: single questions, whole answers and a reference model."""
    training = config.training
    for name, value, needed, reason in (
        ("training.strategy", training.strategy, ("auto", "ddp"), "does not shard the model"),
        (
            "data.questions_per_sample",
            config.data.questions_per_sample,
            (1,),
            "answers one question of a conversation",
        ),
        ("text.loss_on_template", config.text.loss_on_template, (False,), "learns answers alone"),
        (
            "model.llm.lora.dropout",
            config.model.llm.lora.dropout,
            (0.0,),
            "compares log-probabilities without noise",
        ),
        (
            "training.peak_tflops",
            training.peak_tflops,
            (0.0,),
            "has no formula for its operations",
        ),
    ):
        if value not in needed:
            raise ConfigError(
                f"training.objective={training.objective} {reason}, but {name}={_written(value)}."
                f" Set {name}={_written(needed[0])}."
            )
    rewards = training.grpo.rewards
    if training.objective == "grpo" and not any(vars(rewards).values()):
        raise ConfigError(
            "training.grpo.rewards has only weights of 0. Set one above 0, such as"
            " training.grpo.rewards.right_option=1."
        )


def _written(value: str | float) -> str:
    """Return a value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _check_sharding(training: TrainingConfig) -> None:
    """Check that settings of sharded runs have their default in other runs."""
    if training.strategy == "fsdp":
        return
    if training.async_checkpoints:
        raise ConfigError(
            "training.async_checkpoints=true needs sharded checkpoints, not"
            f" training.strategy={training.strategy}. Set training.strategy=fsdp, or false."
        )
    for name, value, default in (
        ("replicas", str(training.replicas), "1"),
        ("cpu_offload", str(training.cpu_offload).lower(), "false"),
    ):
        if value != default:
            raise ConfigError(
                f"training.{name}={value} needs a sharded model, not"
                f" training.strategy={training.strategy}. Set training.strategy=fsdp, or"
                f" {default}."
            )


def _check_batches(data: DataConfig) -> None:
    if data.global_batch_size % data.micro_batch_size:
        raise ConfigError(
            f"data.global_batch_size={data.global_batch_size} must be a multiple of"
            f" data.micro_batch_size={data.micro_batch_size}."
        )
    if (data.tokens_per_batch > 0) != (data.batches_per_step > 0):
        raise ConfigError(
            f"data.tokens_per_batch={data.tokens_per_batch} and"
            f" data.batches_per_step={data.batches_per_step} belong together: in place of"
            " data.micro_batch_size and data.global_batch_size. Set both, or both to 0."
        )


def check_ranges(settings: Any, prefix: str) -> None:
    """Check that every number of a dataclass is within the range of its field.

    Raises:
        ConfigError: one is not; its name in the message has the prefix.
    """
    for field in dataclasses.fields(settings):
        name, value = f"{prefix}{field.name}", getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
        elif isinstance(value, dict):
            for key, source in value.items():
                check_ranges(source, f"{name}.{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ConfigError(f"{name}={value} must be a finite number.")
            ge, gt, le = (field.metadata[bound] for bound in ("ge", "gt", "le"))
            if (
                (ge is not None and value < ge)
                or (gt is not None and value <= gt)
                or (le is not None and value > le)
            ):
                allowed = describe_range(field.metadata)
                raise ConfigError(f"{name}={value} is out of range. It must be {allowed}.")


def _flatten(settings: dict[str, Any], prefix: str, origin: str) -> Iterator[tuple[str, Any]]:
    """Iterate over all values with their full names."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if "." in str(key):
            raise ConfigError(
                f"'{name}' ({origin}): dotted names are for the command line."
                " In a file each part is a level of its own."
            )
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{name}.", origin)
        else:
            yield name, value


def _split_source(name: str) -> tuple[str, str | None]:
    """Split `data.sources.a.weight` into `data.sources.NAME.weight` and `a`."""
    for section, info in SCHEMA.items():
        if info.is_mapping and name.startswith(f"{section}."):
            source, dot, rest = name.removeprefix(f"{section}.").partition(".")
            return f"{section}.NAME{dot}{rest}", source
    return name, None


def _first_setting(section: str) -> str:
    """Return the full name of the first setting of a section."""
    schema_name, source = _split_source(section)
    first = next(
        info.name
        for info in SCHEMA.values()
        if not info.is_section and info.name.startswith(f"{schema_name}.")
    )
    return first if source is None else first.replace("NAME", source)
