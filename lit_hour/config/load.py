"""Load defaults, YAML files and `key=value` overrides into one frozen, checked `Config`.

Later sources win: defaults, composed files, files, overrides. Start with `load_config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_hour.config.schema import Config
from lit_hour.config.validate import check_config, check_names, find_field, wrong_type
from lit_hour.errors import ConfigError

COMPOSE = "compose"
NULL_TAG = "tag:yaml.org,2002:null"
REFERENCE = re.compile(r"\$\{([^}]*)\}")


class ConfigSource(NamedTuple):
    """Settings nested as the schema is.

    Attributes:
        settings: any part of the schema.
        origin: the file or override that they come from, for error messages.
        is_file: whether values may refer to other settings as `${a.b}`.
    """

    settings: dict[str, Any]
    origin: str
    is_file: bool = False


def load_config(
    files: str | Path | Sequence[str | Path] | None = None,
    overrides: Sequence[str] = (),
    base: str | Path | None = None,
) -> Config:
    """Load YAML files and overrides over the defaults of the schema.

    Args:
        files: YAML files of differences from the defaults; later ones win. A file may name others
            that it starts from, relative to itself: `compose: [tiny_model.yaml]`. Each file is
            merged once. In a value, `${run.name}` stands for the value of that setting in the files
            before.
        overrides: settings as `a.b=c`, which win over the files; c is taken as it stands.
        base: a YAML file that is merged before the others, such as the settings of a run.

    Raises:
        ConfigError: a file is missing or not a YAML mapping; a setting does not exist, is given
            twice, has no value, has a value of the wrong type or out of range, or contradicts
            another setting.
    """
    if files is None or isinstance(files, str | Path):
        files = [] if files is None else [files]
    layers: dict[Path, ConfigSource] = {}
    for file in [*([base] if base is not None else []), *files]:
        for path, layer in _read_composed(Path(file)).items():
            layers.setdefault(path, layer)
    return _merge([*layers.values(), *map(parse_override, overrides)])


def config_from_dict(
    settings: dict[str, Any], origin: str, overrides: Sequence[str] = ()
) -> Config:
    """Load settings that are nested as the schema is, and overrides that win over them.

    Args:
        settings: nested settings; any of them may be absent.
        origin: name of the settings in error messages.
        overrides: settings as `a.b=c`.

    Raises:
        ConfigError: as `load_config`.
    """
    return _merge([ConfigSource(settings, origin), *map(parse_override, overrides)])


def save_config(config: Config, path: str | Path) -> None:
    """Write every setting, defaults included, as YAML that `load_config` reads."""
    Path(path).write_text(
        yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )


def parse_override(override: str) -> ConfigSource:
    """Parse `a.b=c` into `{"a": {"b": "c"}}`.

    Raises:
        ConfigError: the text has no `=` or no name.
    """
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise ConfigError(
            f"'{override}' is not a setting. Write key=value, for example training.max_steps=100."
        )
    settings: Any = value
    for key in reversed(name.split(".")):
        settings = {key: settings}
    return ConfigSource(settings, "command line")


def _merge(sources: Sequence[ConfigSource]) -> Config:
    """Merge each source over the defaults and the sources before it."""
    merged = _defaults()
    for source in sources:
        settings, origin, is_file = source
        if is_file and "${" in str(settings):
            settings = _resolve(settings, merged, origin)
        check_names(settings, origin)
        try:
            merged = OmegaConf.merge(merged, settings)
        except OmegaConfBaseException as error:
            raise wrong_type(error.full_key or "", settings, origin) from error
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError(
            f"{missing[0]} has no value and no default. Set it in a file, or as {missing[0]}=..."
        )
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    check_config(config)
    return config


@cache
def _defaults() -> Any:
    """Build the defaults as an omegaconf object, once; merging copies it."""
    return OmegaConf.structured(Config)


def _resolve(settings: Any, before: Any, origin: str) -> Any:
    """Replace each `${a.b}` in the values of a file by the value that a.b has before that file."""
    if isinstance(settings, dict):
        return {key: _resolve(value, before, origin) for key, value in settings.items()}
    if not isinstance(settings, str):
        return settings

    def value_before(reference: re.Match[str]) -> str:
        is_section = find_field(reference[1], origin).is_section
        value = None if is_section else OmegaConf.select(before, reference[1])
        if value is None:
            raise ConfigError(f"{reference[0]} in {origin} must name a setting that has a value.")
        return str(value)

    return REFERENCE.sub(value_before, settings)


def _read_composed(path: Path, composed_by: tuple[Path, ...] = ()) -> dict[Path, ConfigSource]:
    """Read the files that `path` composes, each once in the order of merging, then `path`."""
    absolute = path.resolve()
    if absolute in [file.resolve() for file in composed_by]:
        chain = " -> ".join(map(str, (*composed_by, path)))
        raise ConfigError(f"'{COMPOSE}' goes in a circle: {chain}")
    settings = read_yaml(path, composed_by)
    parents = settings.pop(COMPOSE, [])
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"'{COMPOSE}' in {path} must be a list of file names, not {parents!r}.")
    layers: dict[Path, ConfigSource] = {}
    for parent in parents:
        layers |= _read_composed(path.parent / parent, (*composed_by, path))
    return layers | {absolute: ConfigSource(settings, str(path), is_file=True)}


def read_yaml(path: Path, composed_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML mapping, with the unchanged text of each value.

    Args:
        path: of the file.
        composed_by: files that compose it, for errors.

    Raises:
        ConfigError: the file is missing or not a YAML mapping.
    """
    if not path.is_file():
        raise ConfigError(
            f"Config file not found: {path}"
            + (f", which {composed_by[-1]} composes" if composed_by else "")
            + _similar_file(path)
        )
    try:
        node = yaml.compose(path.read_bytes(), yaml.SafeLoader)
        content = {} if node is None else _to_plain(node, "", path)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} cannot be read as YAML: it is nested without end.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must be a mapping of settings, not {content!r:.60}.")
    return content


def _similar_file(path: Path) -> str:
    """Suggest the file in the same folder with the most similar name."""
    names = [file.stem for file in path.parent.glob("*.yaml")]
    similar = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.5)
    return f". Did you mean {path.parent / similar[0]}.yaml?" if similar else ""


def _to_plain(node: yaml.Node, name: str, path: Path) -> Any:
    """Convert to mappings, lists and the unchanged text of each value; None for a null.

    The schema, not YAML, decides the type of a value: `name: 010` is the text "010".
    """
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == NULL_TAG else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_to_plain(item, name, path) for item in node.value]
    lines: dict[str, int] = {}
    settings = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{path}, line {line}: the name of a setting must be a word.")
        full_name = f"{name}.{key}" if name else key
        if key in settings:
            raise ConfigError(f"{path} sets '{full_name}' twice, in lines {lines[key]} and {line}.")
        lines[key] = line
        settings[key] = _to_plain(value_node, full_name, path)
    return settings
