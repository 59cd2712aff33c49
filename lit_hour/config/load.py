"""Schema < composed files < the file < `a.b=c` words: into one frozen, checked Config, and back to YAML.

A file may name others that it starts from: `compose: [hour_llava_3b.yaml]`, relative to itself.
The schema says what a value is, not YAML: `name: 010` is the text "010", and `max_steps: yes` is refused.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_hour.config.check import check_config, check_names, wrong_type
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError

COMPOSE = "compose"
NULL_TAG = "tag:yaml.org,2002:null"


class Layer(NamedTuple):
    """Settings, nested as the schema is, and the file or word that gave them."""

    settings: dict[str, Any]
    origin: str


def load_config(file: str | Path | None = None, words: Sequence[str] = ()) -> Config:
    """The settings of a YAML file and of words from the command line, over the schema's defaults.

    Args:
        file: a YAML file of differences from the defaults, or None for the defaults alone.
        words: settings as `a.b=c`, which win over the file; c is taken as it stands.

    Raises:
        ConfigError: a file is missing, no YAML or no mapping; a setting does not exist, is given twice, has no value,
            has one of the wrong type or out of range, or does not fit another.
    """
    files = list(_read_composed(Path(file)).values()) if file is not None else []
    return _merge([*files, *map(_parse_word, words)])


def config_from_dict(settings: dict[str, Any], origin: str) -> Config:
    """The settings that a checkpoint carries, as `config_to_dict` wrote them; `origin` names it in errors.

    Raises:
        ConfigError: as `load_config`.
    """
    return _merge([Layer(settings, origin)])


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain dicts, strings and numbers: what a checkpoint may hold."""
    return dataclasses.asdict(config)


def save_config(config: Config, path: str | Path) -> None:
    """Write every setting, defaults included, as YAML that `load_config` reads."""
    Path(path).write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _merge(layers: Sequence[Layer]) -> Config:
    """The defaults with each layer laid over what came before it."""
    for layer in layers:
        check_names(*layer)
    merged = OmegaConf.structured(Config)
    for layer in layers:
        try:
            merged = OmegaConf.merge(merged, layer.settings)
        except OmegaConfBaseException as error:
            raise wrong_type(error.full_key or "", *layer) from error
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(f"{missing[0]} has no value and no default: give it in a file, or as the word {missing[0]}=...")
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    check_config(config)
    return config


def _parse_word(word: str) -> Layer:
    """`a.b=c` -> {"a": {"b": "c"}}."""
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise ConfigError(f"'{word}' is not a setting: write NAME=VALUE, for example training.max_steps=100")
    settings: Any = value
    for key in reversed(name.split(".")):
        settings = {key: settings}
    return Layer(settings, f"the word '{word}'")


def _read_composed(path: Path, composed_by: tuple[Path, ...] = ()) -> dict[Path, Layer]:
    """The files that `path` starts from, in the order in which they are merged and each once, then `path` itself."""
    where = path.resolve()
    if where in [file.resolve() for file in composed_by]:
        raise ConfigError(f"'{COMPOSE}' goes in a circle: {' -> '.join(map(str, (*composed_by, path)))}")
    settings = _read_yaml(path, composed_by)
    parents = settings.pop(COMPOSE, [])
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: '{COMPOSE}' has to be a list of file names, not {parents!r}")
    layers: dict[Path, Layer] = {}
    for parent in parents:
        layers = {**_read_composed(path.parent / parent, (*composed_by, path)), **layers} if False else layers
    layers[where] = Layer(settings, str(path))
    return layers
