"""Parts that the commands share: their table row, and the options of commands that use a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lit_hour.config.arguments import CommandParser
from lit_hour.config.sampling_params import SamplingParams
from lit_hour.config.validate import check_ranges
from lit_hour.errors import ConfigError

CHECKPOINT_HELP = "name in RUN/checkpoints; default: best, last or converted"
MAPPING_HELP = "YAML file of the fields in tars of others; see shards/README.md"


class Command(NamedTuple):
    """A command: its help, and the functions that build its parser and run it."""

    help: str
    build_parser: Callable[[str, str], CommandParser]
    run: Callable[[argparse.Namespace], None]


def add_run_options(parser: CommandParser, takes_device: bool = False) -> None:
    """Declare the options that name a run, its checkpoint, and where it computes."""
    parser.add_option("--run", type=Path, required=True, help="run folder, such as runs/tiny")
    parser.add_option("--checkpoint", help=CHECKPOINT_HELP)
    if takes_device:
        parser.add_option(
            "--device",
            type=parse_device,
            help="cpu, cuda or cuda:N; default: a GPU if there is one",
        )


def parse_port(text: str) -> int:
    """Parse a TCP port.

    Raises:
        argparse.ArgumentTypeError: the text is not a number from 0 to 65535.
    """
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} must be a port from 0 to 65535")
    return int(text)


def parse_device(text: str) -> str:
    """Check the name of a device, without checking that the machine has it.

    Raises:
        argparse.ArgumentTypeError: the text is not cpu, cuda or cuda:N.
    """
    name, colon, number = text.partition(":")
    if text == "cpu" or (name == "cuda" and number.isdecimal() == bool(colon)):
        return text
    raise argparse.ArgumentTypeError(f"{text} must be cpu, cuda or cuda:N")


def add_sampling_options(parser: CommandParser) -> None:
    """Declare the options of sampling, with the names of OpenAI's API."""
    parser.add_option(
        "--temperature", type=float, help="0, the default, for the most likely token; above, random"
    )
    parser.add_option("--top-p", type=float, help="share of the probability to sample from")
    parser.add_option("--top-k", type=int, help="number of tokens to sample from")
    parser.add_option("--seed", type=int, help="seed of the sampling; default: random")
    parser.add_option(
        "--stop", action="append", default=[], help="text that ends the answer; may be repeated"
    )


def read_sampling_params(arguments: argparse.Namespace) -> SamplingParams:
    """Return the parameters that the options of `add_sampling_options` give.

    Raises:
        ConfigError: one is out of range, or has no effect.
    """
    values = {name: getattr(arguments, name) for name in ("temperature", "top_p", "top_k", "seed")}
    given = {name: value for name, value in values.items() if value is not None}
    params = SamplingParams(**given, stop=tuple(filter(None, arguments.stop)))
    check_ranges(params, "")
    if given and not params.temperature and "temperature" not in given:
        name = next(iter(given)).replace("_", "-")
        raise ConfigError(f"--{name} has no effect without --temperature. Give one above 0.")
    return params
