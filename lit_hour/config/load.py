"""Schema < composed files < the file < `a.b=c` words: into one frozen, checked Config, and back to YAML.

A file may name others that it starts from: `compose: [hour_llava_3b.yaml]`, relative to itself.
The schema says what a value is, not YAML: `name: 010` is the text "010", and `max_steps: yes` is refused.


The words of a command line -> a Config: `[FILE.yaml] [key=value ...]`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_hour.config.schema import Config
from lit_hour.config.validate import check_config, check_names, wrong_type
from lit_hour.errors import ConfigError

COMPOSE = "compose"
NULL_TAG = "tag:yaml.org,2002:null"


class Layer(NamedTuple):
    """Settings, nested as the schema is, and the file or word that gave them."""

    settings: dict[str, Any]
    origin: str


def load_config(
    file: str | Path | None = None, words: Sequence[str] = (), base: str | Path | None = None
) -> Config:
    """The settings of a YAML file and of words from the command line, over the schema's defaults.

    Args:
        file: a YAML file of differences from the defaults, or None for the defaults alone.
        words: settings as `a.b=c`, which win over the file; c is taken as it stands.
        base: another YAML file, such as that of a run, which the file is laid over.

    Raises:
        ConfigError: a file is missing, no YAML or no mapping; a setting does not exist, is given twice, has no value,
            has one of the wrong type or out of range, or does not fit another.
    """
    files = [
        layer
        for each in (base, file)
        if each is not None
        for layer in _read_composed(Path(each)).values()
    ]
    return _merge([*files, *map(_parse_word, words)])


def config_from_dict(settings: dict[str, Any], origin: str, words: Sequence[str] = ()) -> Config:
    """Settings that are nested as the schema is; `origin` names them in errors, and `a.b=c` words win over them.

    Raises:
        ConfigError: as `load_config`.
    """
    return _merge([Layer(settings, origin), *map(_parse_word, words)])


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain dicts, strings and numbers: what a checkpoint may hold."""
    return dataclasses.asdict(config)


def save_config(config: Config, path: str | Path) -> None:
    """Write every setting, defaults included, as YAML that `load_config` reads."""
    Path(path).write_text(
        yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )


def _merge(layers: Sequence[Layer]) -> Config:
    """The defaults with each layer laid over what came before it."""
    for layer in layers:
        check_names(*layer)
    merged = _defaults()
    for layer in layers:
        try:
            merged = OmegaConf.merge(merged, layer.settings)
        except OmegaConfBaseException as error:
            raise wrong_type(error.full_key or "", *layer) from error
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(
            f"{missing[0]} has no value and no default: give it in a file, or as the word {missing[0]}=..."
        )
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    check_config(config)
    return config


@cache
def _defaults() -> Any:
    """The schema as omegaconf holds it, which takes longer to make than to merge; merging copies it."""
    return OmegaConf.structured(Config)


def _parse_word(word: str) -> Layer:
    """`a.b=c` -> {"a": {"b": "c"}}."""
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise ConfigError(
            f"'{word}' is not a setting: write NAME=VALUE, for example training.max_steps=100"
        )
    settings: Any = value
    for key in reversed(name.split(".")):
        settings = {key: settings}
    return Layer(settings, f"the word '{word}'")


def _read_composed(path: Path, composed_by: tuple[Path, ...] = ()) -> dict[Path, Layer]:
    """The files that `path` starts from, each once and in the order in which they are merged, then `path` itself."""
    where = path.resolve()
    if where in [file.resolve() for file in composed_by]:
        raise ConfigError(
            f"'{COMPOSE}' goes in a circle: {' -> '.join(map(str, (*composed_by, path)))}"
        )
    settings = _read_yaml(path, composed_by)
    parents = settings.pop(COMPOSE, [])
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: '{COMPOSE}' has to be a list of file names, not {parents!r}")
    layers: dict[Path, Layer] = {}
    for parent in parents:
        layers |= _read_composed(path.parent / parent, (*composed_by, path))
    return layers | {where: Layer(settings, str(path))}


def _read_yaml(path: Path, composed_by: tuple[Path, ...]) -> dict[str, Any]:
    if not path.is_file():
        near = difflib.get_close_matches(
            path.stem, [file.stem for file in path.parent.glob("*.yaml")], n=1, cutoff=0.5
        )
        raise ConfigError(
            f"no such config file: {path}"
            + (f", which {composed_by[-1]} composes" if composed_by else "")
            + (f"; did you mean {path.parent / near[0]}.yaml?" if near else "")
        )
    try:
        node = yaml.compose(path.read_bytes(), yaml.SafeLoader)
        content = {} if node is None else _plain(node, "", path)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} cannot be read as YAML: it is nested without end") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} has to be a mapping of settings, not {content!r:.60}")
    return content


def _plain(node: yaml.Node, name: str, path: Path) -> Any:
    """Mappings, lists and the text of each value as it is written; None for a null."""
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == NULL_TAG else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, name, path) for item in node.value]
    lines: dict[str, int] = {}
    settings = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{path}, line {line}: the name of a setting has to be a word")
        full_name = f"{name}.{key}" if name else key
        if key in settings:
            raise ConfigError(
                f"{path}: '{full_name}' is given twice, in lines {lines[key]} and {line}"
            )
        lines[key] = line
        settings[key] = _plain(value_node, full_name, path)
    return settings


def parse_command_line(words: Sequence[str], default_file: str | None = None) -> Config:
    """The settings of the file that the words name, or of the default one, changed by the other words.

    Raises:
        ConfigError: more than one file is named, a word is neither a file nor a setting, or as `load_config`.
    """
    file, settings = split_words(words)
    return load_config(file or default_file, settings)


def split_words(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file among the words, if there is one, and the settings.

    Raises:
        ConfigError: more than one file is named, or a word is neither a file nor a setting.
    """
    files = [
        word
        for word in words
        if word.endswith(".yaml") and ("=" not in word or Path(word).is_file())
    ]
    settings = [word for word in words if word not in files]
    for word in settings:
        if "=" not in word:
            raise ConfigError(
                f"'{word}' is neither a .yaml file nor a setting: settings are written as key=value"
            )
    if len(files) > 1:
        raise ConfigError(f"one config file at most, not {' and '.join(files)}")
    return Path(files[0]) if files else None, settings
