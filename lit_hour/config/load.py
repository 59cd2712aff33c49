"""Schema < composed files < the file < `a.b=c` words: into one frozen, checked Config, and back to YAML.

A file may name others that it starts from: `compose: [hour_llava_3b.yaml]`, relative to itself.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_hour.config.schema import Config, SourceConfig
from lit_hour.errors import ConfigError

COMPOSE = "compose"


def load_config(file: str | Path | None = None, words: Sequence[str] = ()) -> Config:
    """The settings of a YAML file and of words from the command line, over the schema's defaults.

    Args:
        file: a YAML file of differences from the defaults, or None for the defaults alone.
        words: settings as `a.b=c`, which win over the file.

    Raises:
        ConfigError: the file is missing or no mapping; a setting does not exist, has the wrong type or is out of range.
    """
    config = OmegaConf.structured(Config)
    for path in _composed_files(Path(file)) if file is not None else ():
        config = _merge(config, _read_yaml(path), origin=str(path))
    for word in words:
        config = _merge(config, _parse_word(word), origin=f"the word '{word}'")
    return _freeze(config)


def config_from_dict(settings: dict[str, Any], origin: str) -> Config:
    """The settings that a checkpoint carries, as `config_to_dict` wrote them; `origin` names it in errors."""
    return _freeze(_merge(OmegaConf.structured(Config), settings, origin))


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain dicts, strings and numbers: what a checkpoint may hold."""
    return dataclasses.asdict(config)


def save_config(config: Config, path: str | Path) -> None:
    """Write every setting, defaults included, as YAML that `load_config` reads."""
    Path(path).write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def describe_settings() -> str:
    """Every setting with its default, unit, range and meaning: the text of `--help`."""
    lines = []
    for name, field in _walk_schema(Config):
        if dataclasses.is_dataclass(field.default_factory):
            lines.append(f"\n{name}: {field.metadata['meaning']}")
            continue
        if field.default_factory is not dataclasses.MISSING:
            default = "{}"
        else:
            default = yaml.safe_dump(field.default, default_flow_style=True).removesuffix("...\n").strip()
        notes = ", ".join(note for note in (field.metadata["unit"], _describe_range(field)) if note)
        lines.append(f"  {name}={default}" + (f"  [{notes}]" if notes else "") + f"\n      {field.metadata['meaning']}")
    return "\n".join(lines).strip()


def _describe_range(field: dataclasses.Field[Any]) -> str:
    """`choices`, or the bounds of a number, in words."""
    if str(field.type).startswith("Literal"):
        return str(field.type).removeprefix("Literal[").removesuffix("]").replace('"', "").replace(", ", " | ")
    metadata = field.metadata
    bounds = [f"{word} {metadata[key]:g}" for key, word in BOUND_WORDS.items() if metadata[key] is not None]
    return " and ".join(bounds)


BOUND_WORDS = {"at_least": "at least", "above": "above", "at_most": "at most"}


def _composed_files(path: Path, seen: tuple[Path, ...] = ()) -> list[Path]:
    """The files that `path` starts from, in the order in which they are merged, then `path` itself."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: '{COMPOSE}' leads back to itself through {' -> '.join(map(str, seen))}")
    parents = _read_yaml(path, keep_compose=True).get(COMPOSE, [])
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: '{COMPOSE}' has to be a list of file names, not {parents!r}")
    files = [file for parent in parents for file in _composed_files(path.parent / parent, (*seen, path.resolve()))]
    return [*files, path]


def _read_yaml(path: Path, keep_compose: bool = False) -> dict[str, Any]:
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [file.stem for file in path.parent.glob("*.yaml")], n=1)
        raise ConfigError(f"no such config file: {path}" + (f"; did you mean {path.parent / near[0]}.yaml?" if near else ""))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path} has to be a mapping of settings, not a {type(content).__name__}")
    return content if keep_compose else {key: value for key, value in content.items() if key != COMPOSE}


def _parse_word(word: str) -> dict[str, Any]:
    """`a.b=c` -> {"a": {"b": c}}, with c read as YAML reads it."""
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise ConfigError(f"'{word}' is not a setting: write NAME=VALUE, for example training.max_steps=100")
    try:
        settings: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of '{word}' is not YAML: {error}") from error
    for key in reversed(name.split(".")):
        settings = {key: settings}
    return settings


def _merge(config: DictConfig, settings: dict[str, Any], origin: str) -> DictConfig:
    _check_names(settings, Config, "", origin)
    try:
        return OmegaConf.merge(config, settings)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        name = getattr(error, "full_key", None) or "a setting"
        raise ConfigError(f"{name} in {origin}: {reason}") from error


def _check_names(settings: Any, kind: type, prefix: str, origin: str) -> None:
    """Refuse a name that the schema does not have, with the nearest one that it has."""
    if not isinstance(settings, dict):
        raise ConfigError(f"'{prefix}' in {origin} is a group of settings: it needs a mapping, not {settings!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in settings.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in fields:
            raise ConfigError(f"no setting '{name}' (in {origin}){_did_you_mean(name)}")
        factory = fields[key].default_factory
        if dataclasses.is_dataclass(factory):
            _check_names(value, factory, name, origin)  # type: ignore[arg-type]
        elif factory is not dataclasses.MISSING:
            for source, source_settings in (value or {}).items():
                _check_names(source_settings, SourceConfig, f"{name}.{source}", origin)


def _did_you_mean(name: str) -> str:
    names = [known for known, _ in _walk_schema(Config)]
    same_leaf = [known for known in names if known.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or same_leaf[:1]
    return f"; did you mean '{near[0]}'?" if near else "; python train.py --help lists every setting"


def _freeze(config: DictConfig) -> Config:
    """Check every range and turn omegaconf's container into plain frozen dataclasses."""
    try:
        frozen = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"a setting has no value: {str(error).splitlines()[0]}") from error
    assert isinstance(frozen, Config)
    _check_ranges(frozen, "")
    _check_together(frozen)
    return frozen


def _check_ranges(settings: Any, prefix: str) -> None:
    for field in dataclasses.fields(settings):
        name, value = f"{prefix}{field.name}", getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{name}.")
        elif isinstance(value, dict):
            for key, source in value.items():
                _check_ranges(source, f"{name}.{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, above, high = (field.metadata[bound] for bound in BOUND_WORDS)
            fits = (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)
            if not fits:
                raise ConfigError(f"{name}={value} is out of range: it has to be {_describe_range(field)}")


def _check_together(config: Config) -> None:
    """Settings that are right alone and wrong together."""
    video, memory, language, data = config.video, config.model.memory, config.model.language, config.data
    if video.min_frames > video.max_frames:
        raise ConfigError(f"video.min_frames={video.min_frames} is above video.max_frames={video.max_frames}")
    if language.num_heads % language.num_key_value_heads:
        raise ConfigError(
            f"model.language.num_heads={language.num_heads} has to be a multiple of num_key_value_heads={language.num_key_value_heads}"
        )
    if language.hidden_size % (4 * language.num_heads):
        raise ConfigError(
            f"model.language.hidden_size={language.hidden_size} has to be a multiple of 4 * num_heads={4 * language.num_heads}:"
            " MemAug turns pairs in half of each head"
        )
    stride = memory.spatial_keep**-0.5
    if abs(stride - round(stride)) > 1e-6:
        raise ConfigError(
            f"model.memory.spatial_keep={memory.spatial_keep:g} has to be 1, 1/4, 1/9, ...: every n-th row and column survives"
        )
    if data.samples_per_step % data.samples_per_batch:
        raise ConfigError(
            f"data.samples_per_step={data.samples_per_step} has to be a multiple of data.samples_per_batch={data.samples_per_batch}"
        )


def _walk_schema(kind: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every setting and group of the schema under its full name."""
    for field in dataclasses.fields(kind):
        yield f"{prefix}{field.name}", field
        if dataclasses.is_dataclass(field.default_factory):
            yield from _walk_schema(field.default_factory, f"{prefix}{field.name}.")  # type: ignore[arg-type]
