"""Command line `lit-hour COMMAND`, also `python -m lit_hour COMMAND`.

Each command has a function that declares its arguments and one that runs it. Handlers import what
they need themselves, so that `--help` and a mistyped setting are answered without importing torch.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import warnings
from collections.abc import Sequence

from lit_hour import __version__
from lit_hour.cli import (
    data_commands,
    plan_commands,
    question_commands,
    run_commands,
    video_commands,
    weight_commands,
)
from lit_hour.errors import InputError

PROG = "lit-hour"
EXTRAS = {
    **dict.fromkeys(("fastapi", "prometheus_client", "pydantic", "python_multipart"), "serve"),
    **dict.fromkeys(("starlette", "uvicorn"), "serve"),
    **dict.fromkeys(("datasketch", "jsonschema", "openai"), "annotate"),
    **dict.fromkeys(("pyarrow", "pysubs2"), "evaluate"),
}  # optional library: the extra that installs it
RENAMED_COMMANDS = {"encode": "extract-features"}
COMMANDS = {
    **data_commands.COMMANDS,
    **question_commands.COMMANDS,
    **plan_commands.COMMANDS,
    **run_commands.COMMANDS,
    **video_commands.COMMANDS,
    **weight_commands.COMMANDS,
}


def console_main() -> None:
    """Run the command line of this process, and report invalid input in one line."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")


def main(argv: Sequence[str]) -> None:
    """Run one command.

    Args:
        argv: the words after the program's name.

    Raises:
        InputError: a setting, file or run cannot be used.
        SystemExit: the words are not those of a command.
    """
    name, words = (argv[0], argv[1:]) if argv else ("", ())
    if name not in COMMANDS:
        _parse_program_options(name)
        return
    command = COMMANDS[name]
    arguments = command.build_parser(f"{PROG} {name}", command.help).parse(words)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        command.run(arguments)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        raise InputError(
            f"{library} is not installed. Run pip install '.[{EXTRAS[library]}]' in a checkout of"
            " lit_hour"
        ) from error


def _parse_program_options(word: str) -> None:
    """Handle `--help`, `--version`, and a word that is not a command."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{command.help}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        PROG,
        usage=f"{PROG} [-h] [--version] COMMAND ...",
        description="Hour-long video-language modelling: Hour-LLaVA and VideoMarathon.",
        epilog="\n".join(
            ["commands:", *lines, "", f"`{PROG} COMMAND --help` describes a command."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lit-hour {__version__}")
    if word.startswith("-"):
        parser.parse_args([word])
    if not word:
        parser.error("a command is missing; `lit-hour --help` lists them")
    if word in RENAMED_COMMANDS:
        parser.error(f"{word} was renamed to {RENAMED_COMMANDS[word]}")
    similar = difflib.get_close_matches(word, COMMANDS, n=1)
    parser.error(f"unknown command {word}" + (f". Did you mean {similar[0]}?" if similar else ""))
