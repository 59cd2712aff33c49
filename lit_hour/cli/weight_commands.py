"""Commands that turn the weights of a run into another format, or back."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_hour.cli.command import CHECKPOINT_HELP, Command
from lit_hour.config.arguments import CommandParser
from lit_hour.errors import ConfigError
from lit_hour.run_dir import RunDir


def convert_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of convert."""
    parser = CommandParser(
        prog, description, settings_help="any setting, such as model.vision.weights=FOLDER"
    )
    parser.add_positional(
        "source", type=Path, help="folder in the Hugging Face layout, or a run folder"
    )
    parser.add_positional("target", type=Path, help="folder to create")
    parser.add_option("--checkpoint", help=f"{CHECKPOINT_HELP} (if the source is a run)")
    parser.add_option(
        "--adapter",
        action="store_true",
        help="write only the LoRA adapters of a run, as a folder that peft loads",
    )
    parser.add_option(
        "--to",
        choices=["transformers"],
        help="a run to a folder that transformers loads without lit_hour; default: between a run"
        " and the published layout",
    )
    return parser


def run_convert(arguments: argparse.Namespace) -> None:
    """Convert a model between the Hugging Face layout and a run folder, and print a summary."""
    if arguments.to is not None and arguments.adapter:
        raise ConfigError("--adapter and --to are two formats. Give one of them.")
    if arguments.to is not None:
        _export_to_transformers(arguments)
        return
    from lit_hour.weights.convert import convert
    from lit_hour.weights.peft_export import export_adapter

    converted = (export_adapter if arguments.adapter else convert)(
        arguments.source, arguments.target, arguments.overrides, arguments.checkpoint
    )
    print(converted.to_text())


def _export_to_transformers(arguments: argparse.Namespace) -> None:
    """Export a run, with the scores that its reports have, and print a summary."""
    from lit_hour.evaluation.report.report import read_reports_of
    from lit_hour.export.model_card import ReportedScore
    from lit_hour.export.to_transformers import export_to_transformers

    def read_scores(checkpoint: Path) -> list[ReportedScore]:
        reports = read_reports_of(checkpoint, RunDir(arguments.source).evaluation)
        return [ReportedScore(report.summary(), report.full_protocol) for report in reports]

    exported = export_to_transformers(
        arguments.source, arguments.target, arguments.overrides, arguments.checkpoint, read_scores
    )
    print(exported.to_text())


def export_small_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of export-small."""
    parser = CommandParser(prog, description)
    parser.add_positional("run", type=Path, help="run with the parts of conf/small.yaml")
    parser.add_positional("file", type=Path, help="file to create, .safetensors")
    parser.add_option(
        "--rank",
        type=int,
        default=16,
        help="rank of the changes of the language model: the sum of the ranks of its adapters, one"
        " for each stage; default: 16",
    )
    parser.add_option("--checkpoint", help=CHECKPOINT_HELP)
    return parser


def run_export_small(arguments: argparse.Namespace) -> None:
    """Write what a run has learned to one small file, and print its size."""
    from lit_hour.weights.small_export import export_small

    exported = export_small(arguments.run, arguments.file, arguments.rank, arguments.checkpoint)
    print(exported.to_text())


def import_small_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of import-small."""
    parser = CommandParser(prog, description)
    parser.add_positional("file", type=Path, help="file of export-small")
    parser.add_positional("run", type=Path, help="run folder to create")
    return parser


def run_import_small(arguments: argparse.Namespace) -> None:
    """Make a run from a file of export-small, and print what to try next."""
    from lit_hour.weights.small_export import import_small

    import_small(arguments.file, arguments.run)
    print(f"{arguments.run}\nto try it: lit-hour ask --run {arguments.run} VIDEO QUESTION")


def consolidate_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of consolidate."""
    parser = CommandParser(prog, description)
    parser.add_positional("source", type=Path, help="sharded checkpoint: RUN/checkpoints/NAME")
    parser.add_positional("target", type=Path, help="file to create, such as OUT.ckpt")
    return parser


def run_consolidate(arguments: argparse.Namespace) -> None:
    """Turn a sharded checkpoint into one file, and print a summary."""
    from lit_hour.training.checkpoints.consolidate import consolidate

    print(consolidate(arguments.source, arguments.target).to_text())


COMMANDS = {
    "convert": Command(
        "convert a published Hour-LLaVA to a run, or a run to the published layout or transformers",
        convert_parser,
        run_convert,
    ),
    "export-small": Command(
        "write what a run of conf/small.yaml has learned to one small file",
        export_small_parser,
        run_export_small,
    ),
    "import-small": Command(
        "make a run from a file of export-small and the packages of the extra small",
        import_small_parser,
        run_import_small,
    ),
    "consolidate": Command(
        "turn a sharded checkpoint into one file that Lightning resumes",
        consolidate_parser,
        run_consolidate,
    ),
}
