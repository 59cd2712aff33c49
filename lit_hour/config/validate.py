"""Settings as they were written, or a finished Config -> nothing, or a ConfigError that names the setting.

Names are checked before anything is merged; ranges and combinations in what the merge gave.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from lit_hour.config.hints import renamed
from lit_hour.config.introspect import Entry, describe_kind, describe_range, walk_schema
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError

RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
SOURCE_NAME = re.compile(r"[A-Za-z0-9_-]+")


def check_names(settings: dict[str, Any], origin: str) -> None:
    """Refuse a name that the schema does not have, and a value where it can only be wrong.

    Args:
        settings: nested as the schema is; any part of it may be absent.
        origin: the file or word that they come from, for the error.

    Raises:
        ConfigError: a name is unknown, a group is given a value, or a setting a mapping, a list or null.
    """
    for name, value in _flatten(settings, "", origin):
        entry = find_entry(name, origin)
        if entry.is_group:
            if value != {}:
                raise ConfigError(
                    f"'{name}' in {origin} is a group of settings: {_for_example(name)}, not {name}={value}"
                )
        elif value is None or isinstance(value, dict | list | tuple):
            written = "null, which is no value" if value is None else repr(value)
            raise ConfigError(f"{name} in {origin} has to be {describe_kind(entry)}, not {written}")
        elif isinstance(value, str) and ("${" in value or value == "???"):
            raise ConfigError(
                f"{name}={value} in {origin}: '${{' and a lone '???' are omegaconf's own signs and no part of a value"
            )


def find_entry(name: str, origin: str) -> Entry:
    """The line of the schema for a full name, `data.sources.marathon.weight`.

    Raises:
        ConfigError: there is none, with the nearest name that there is, or a source has a name that no word could give it.
    """
    schema_name, source = _split_source(name)
    if source is not None and not SOURCE_NAME.fullmatch(source):
        raise ConfigError(
            f"'{name}' in {origin}: the name of a source has letters, digits, '_' and '-', not {source!r}"
        )
    if schema_name not in _entries():
        if present := renamed(name):
            raise ConfigError(f"'{name}' (in {origin}) was renamed to '{present}'")
        raise ConfigError(f"no setting '{name}' (in {origin}){_did_you_mean(name)}")
    return _entries()[schema_name]


def wrong_type(name: str, settings: dict[str, Any], origin: str) -> ConfigError:
    """The error for a value that cannot become what its setting is."""
    value = dict(_flatten(settings, "", origin))[name]
    return ConfigError(
        f"{name}={value} in {origin} has to be {describe_kind(find_entry(name, origin))}"
    )


def check_config(config: Config) -> None:
    """Refuse a Config that no run can have.

    Raises:
        ConfigError: a number is out of range, settings do not fit together, or `run.name` cannot name a folder.
    """
    _check_ranges(config, "")
    _check_run_name(config.run.name)
    _check_together(config)


def _check_ranges(settings: Any, prefix: str) -> None:
    for field in dataclasses.fields(settings):
        name, value = f"{prefix}{field.name}", getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{name}.")
        elif isinstance(value, dict):
            for key, source in value.items():
                _check_ranges(source, f"{name}.{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(name, value, field.metadata)


def _check_number(name: str, value: float, bounds: Mapping[str, Any]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name}={value} has to be a finite number")
    low, above, high = bounds["ge"], bounds["gt"], bounds["le"]
    if (
        (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    ):
        raise ConfigError(f"{name}={value} is out of range: it has to be {describe_range(bounds)}")


def _check_run_name(name: str) -> None:
    if not RUN_NAME.fullmatch(name):
        raise ConfigError(
            f"run.name={name!r} has to name a folder: letters, digits, '.', '_' and '-', not starting with '.'"
        )


def _check_together(config: Config) -> None:
    """Settings that are right alone and wrong together."""
    video, memory, language, data = (
        config.video,
        config.model.memaug,
        config.model.llm,
        config.data,
    )
    if config.pack.num_workers == 0:
        raise ConfigError("pack.num_workers=0 packs nothing. Set -1 for one process per core.")
    if video.min_frames > video.max_frames:
        raise ConfigError(
            f"video.min_frames={video.min_frames} is above video.max_frames={video.max_frames}"
        )
    if language.num_heads % language.num_key_value_heads:
        raise ConfigError(
            f"model.llm.num_heads={language.num_heads} has to be a multiple of"
            f" model.llm.num_key_value_heads={language.num_key_value_heads}"
        )
    if language.hidden_size % (4 * language.num_heads):
        raise ConfigError(
            f"model.llm.hidden_size={language.hidden_size} has to be a multiple of"
            f" 4 * model.llm.num_heads={4 * language.num_heads}: MemAug turns pairs in half of each head"
        )
    stride = memory.spatial_keep_ratio**-0.5
    is_uniform = "uniform" in (memory.spatial_forgetting, memory.eval_spatial_forgetting)
    if is_uniform and abs(stride - round(stride)) > 1e-6:
        raise ConfigError(
            f"model.memaug.spatial_keep_ratio={memory.spatial_keep_ratio:g} has to be 1, 1/4, 1/9, ... where forgetting is uniform:"
            " every n-th row and column survives"
        )
    if data.global_batch_size % data.micro_batch_size:
        raise ConfigError(
            f"data.global_batch_size={data.global_batch_size} has to be a multiple of"
            f" data.micro_batch_size={data.micro_batch_size}"
        )


@cache
def _entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in walk_schema()}


def _flatten(settings: dict[str, Any], prefix: str, origin: str) -> Iterator[tuple[str, Any]]:
    """Every value under its full name."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if "." in str(key):
            raise ConfigError(
                f"'{name}' in {origin}: names with dots are for the command line; here each part is a level of its own"
            )
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{name}.", origin)
        else:
            yield name, value


def _split_source(name: str) -> tuple[str, str | None]:
    """`data.sources.marathon.weight` -> (`data.sources.NAME.weight`, `marathon`); another name -> (itself, None)."""
    for group, entry in _entries().items():
        if entry.holds_named_groups and name.startswith(f"{group}."):
            source, dot, rest = name.removeprefix(f"{group}.").partition(".")
            return f"{group}.NAME{dot}{rest}", source
    return name, None


def _did_you_mean(name: str) -> str:
    """The nearest name, or every setting of the same last word in another group."""
    parts = name.split(".")
    source = parts[2] if len(parts) > 2 else "NAME"
    known = [entry.replace(".NAME", f".{source}") for entry in _entries()]
    same_word = [full_name for full_name in known if full_name.split(".")[-1] == parts[-1]]
    near = (
        difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        or same_word
        or difflib.get_close_matches(name, known, n=1)
    )
    if not near:
        return "; python train.py --help lists every setting"
    return "; did you mean " + " or ".join(f"'{full_name}'" for full_name in near) + "?"


def _for_example(group: str) -> str:
    """How to write a setting of a group."""
    inside = [entry.name for entry in _entries().values() if not entry.is_group]
    schema_name, source = _split_source(group)
    first = next(name for name in inside if name.startswith(f"{schema_name}."))
    return f"give one of them, such as {first if source is None else first.replace('NAME', source)}=..."
