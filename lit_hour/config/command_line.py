"""The words of a command line -> a Config: `[FILE.yaml] [key=value ...]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError


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
    files = [word for word in words if word.endswith(".yaml") and ("=" not in word or Path(word).is_file())]
    settings = [word for word in words if word not in files]
    for word in settings:
        if "=" not in word:
            raise ConfigError(f"'{word}' is neither a .yaml file nor a setting: settings are written as key=value")
    if len(files) > 1:
        raise ConfigError(f"one config file at most, not {' and '.join(files)}")
    return Path(files[0]) if files else None, settings
