"""Parse command lines of options, positional arguments, config files and `key=value` overrides.

The documented order is `[options] POSITIONALS [key=value ...]`; any other order without two
meanings works too. `CommandParser` serves `lit_hour.cli.main` and `train.py`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lit_hour.config.hints import present_name, suggest_settings
from lit_hour.config.validate import SCHEMA

NAME_CHARACTERS = frozenset("._-")  # of a setting, besides letters and digits


class CommandParser:
    """Parser of one command.

    argparse alone cannot take overrides after options, nor tell an override from a question. So
    options are parsed first; what is left is sorted into config files, overrides and positional
    arguments.

    Attributes:
        add_option: add an option, as `argparse.ArgumentParser.add_argument` does.
        add_positional: add a positional argument, as `add_argument` does.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        *,
        settings_help: str = "",
        takes_config: bool = False,
        explain_extra: Callable[[list[str], list[str]], str] | None = None,
        epilog: Callable[[], str] | None = None,
    ) -> None:
        """Create a parser without arguments of its own.

        Args:
            prog: how the command is called.
            description: first paragraph of its help.
            settings_help: which settings it uses; empty for a command without settings.
            takes_config: whether it takes config files, as `-c FILE`.
            explain_extra: returns the error message for too many positional arguments, given all of
                them and those that are too many.
            epilog: returns the last part of the help.
        """
        self._prog, self._description, self._epilog = prog, description, epilog
        self._settings_help, self._takes_config = settings_help, takes_config
        self._explain_extra = explain_extra or _explain_extra
        self._options, self._positionals = _PartialParser(self.error), _PartialParser(self.error)
        self.add_option = self._options.add_argument
        self.add_positional = self._positionals.add_argument
        if takes_config:
            self.add_option(
                "-c",
                "--config",
                type=Path,
                action="append",
                default=[],
                metavar="FILE",
                help="YAML file of settings; may be repeated, later files win",
            )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words after the command.

        Words after `--` are positional arguments, whatever they contain. Wrong words end the
        process with the usage and what is wrong; `--help` ends it with the help.

        Returns:
            The values of options and positional arguments, `config` (list of paths) and `overrides`
            (list of `key=value` texts).
        """
        words = list(words)
        end = words.index("--") if "--" in words else len(words)
        if not {"-h", "--help"}.isdisjoint(words[:end]):
            sys.stdout.write(self.format_help())
            sys.exit(0)
        namespace, rest = self._options.parse_known_args(words[:end])
        namespace.overrides = []
        positional = []
        for index, word in enumerate(rest):
            if _is_option(word):
                self._refuse_option(word, rest[index + 1 :])
            elif self._settings_help and is_override(word):
                namespace.overrides.append(word)
            elif self._takes_config and Path(word).suffix in (".yaml", ".yml"):
                namespace.config = [*namespace.config, Path(word)]
            else:
                positional.append(word)
        positional += words[end + 1 :]
        _, extra = self._positionals.parse_known_args(["--", *positional], namespace)
        if extra := [word for word in extra if word != "--"]:
            self.error(self._explain_extra(positional, extra))
        return namespace

    def format_help(self) -> str:
        """Return the help text."""
        help_text = self._complete_parser().format_help()
        return f"{help_text}\n{self._epilog()}\n" if self._epilog else help_text

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and exit with status 2."""
        self._complete_parser().error(message)

    def _complete_parser(self) -> argparse.ArgumentParser:
        """Build the parser of all arguments, which formats help and usage."""
        parser = argparse.ArgumentParser(
            self._prog, description=self._description, parents=[self._positionals, self._options]
        )
        if self._settings_help:
            parser.add_argument(
                "overrides", nargs="*", metavar="key=value", help=self._settings_help
            )
        return parser

    def _refuse_option(self, word: str, following: list[str]) -> NoReturn:
        """Report an unknown option, with the setting or the option that it probably means."""
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            value = following[0] if following and not _is_option(following[0]) else "VALUE"
        options = re.findall(r"--[a-z-]+", self._complete_parser().format_usage())
        if similar := difflib.get_close_matches(f"--{name}", options, n=1, cutoff=0.8):
            self.error(f"unknown option {word}. Did you mean {similar[0]}?")
        settings = [name] if name in SCHEMA else _meant_settings(name)
        if not self._settings_help or not settings:
            self.error(f"unknown option {word}")
        meant = " or ".join(f"{setting}={value}" for setting in settings)
        self.error(f"unknown option {word}. Settings are written as key=value: {meant}")


class _PartialParser(argparse.ArgumentParser):
    """Parser of some arguments of a command; its errors show the usage of the whole command."""

    def __init__(self, on_error: Callable[[str], NoReturn]) -> None:
        super().__init__(add_help=False)
        self._on_error = on_error

    def error(self, message: str) -> NoReturn:
        """Report wrong words."""
        self._on_error(message)


def is_override(word: str) -> bool:
    """Return whether a word is `key=value` with a dotted name, and not an existing file."""
    name, equals, _ = word.partition("=")
    is_name = all(letter.isalnum() or letter in NAME_CHARACTERS for letter in name)
    return bool(name and equals) and is_name and not _is_option(word) and not os.path.exists(word)


def _explain_extra(words: list[str], extra: list[str]) -> str:
    return f"unexpected: {' '.join(extra)}"


def _meant_settings(name: str) -> list[str]:
    present = present_name(name)
    return [present] if present else suggest_settings(name.replace("-", "_"), SCHEMA)


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and " " not in word
