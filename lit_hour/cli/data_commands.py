"""Commands that make training data, and small models pretrained on synthetic videos."""

from __future__ import annotations

import argparse
import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lit_hour.cli.command import CHECKPOINT_HELP, MAPPING_HELP, Command
from lit_hour.config.arguments import CommandParser
from lit_hour.config.load import load_config

if TYPE_CHECKING:
    from lit_hour.data.packing.pack import PackSummary


def synthesize_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of synthesize."""
    parser = CommandParser(prog, description, settings_help="synthetic.*", takes_config=True)
    parser.add_positional(
        "out", type=Path, help="folder to create; the same command resumes one that was stopped"
    )
    parser.add_option("--hours", type=float, required=True, help="total duration of the videos")
    parser.add_option(
        "--length",
        default="3m-10m",
        help="duration of each video, or shortest and longest: 90s, 1h, 3m-10m (default)",
    )
    parser.add_option("--seed", type=int, help="default: synthetic.seed")
    parser.add_option("--tasks", help="tasks of the questions, separated by commas; default: all")
    parser.add_option(
        "--footage",
        type=Path,
        help="folder of real videos, in which photographs are shown, instead of drawn stories",
    )
    parser.add_option(
        "--photos",
        type=Path,
        help="with --footage: folder with a folder of photographs for each category",
    )
    parser.add_option(
        "--split",
        choices=("train", "validation"),
        default="train",
        help="with --footage: whose photographs are shown; none is in both. Default: train",
    )
    return parser


def run_synthesize(arguments: argparse.Namespace) -> None:
    """Create synthetic videos and questions, and print the next steps."""
    options = {"seed": arguments.seed, "tasks": arguments.tasks}
    overrides = [
        f"synthetic.{name}={value}" for name, value in options.items() if value is not None
    ]
    config = load_config(arguments.config, [*arguments.overrides, *overrides])
    if arguments.footage is not None or arguments.photos is not None:
        from lit_hour.synthetic.footage.build import FootageInput, synthesize_footage

        given = FootageInput.from_arguments(arguments)
        settings = config.synthetic
        print(synthesize_footage(arguments.out, arguments.hours, arguments.length, given, settings))
        return
    from lit_hour.synthetic.dataset import synthesize

    print(synthesize(arguments.out, arguments.hours, arguments.length, config.synthetic))


def pretrain_tower_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of pretrain-tower."""
    parser = CommandParser(
        prog, description, settings_help="pretrain_tower.*, model.vision.*", takes_config=True
    )
    parser.add_positional(
        "out",
        type=Path,
        help="file of the weights to create, .safetensors; for"
        " model.vision.weights. What it reads from unseen frames is written beside it",
    )
    return parser


def run_pretrain_tower(arguments: argparse.Namespace) -> None:
    """Pretrain a small vision tower on synthetic frames, and print what it reads."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.synthetic.pretrain_tower import pretrain_tower
    from lit_hour.synthetic.pretraining import format_accuracy

    print(f"{arguments.out}\n{format_accuracy(pretrain_tower(config, arguments.out))}")


def pretrain_language_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of pretrain-language."""
    parser = CommandParser(
        prog, description, settings_help="pretrain_language.*, model.llm.*", takes_config=True
    )
    parser.add_positional(
        "out",
        type=Path,
        help="folder to create: weights, tokenizer and figures of how well it answers; for"
        " model.llm.path",
    )
    return parser


def run_pretrain_language(arguments: argparse.Namespace) -> None:
    """Pretrain a small language model on synthetic questions, and print how well it answers."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.synthetic.pretrain_language import pretrain_language
    from lit_hour.synthetic.pretraining import format_accuracy

    print(f"{arguments.out}\n{format_accuracy(pretrain_language(config, arguments.out))}")


def pack_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of pack."""
    parser = CommandParser(prog, description, settings_help="video.*, pack.*", takes_config=True)
    parser.add_positional("files", type=Path, help="folder of the videos and images")
    parser.add_positional(
        "questions", type=Path, help="question file, .json or .jsonl; see shards/README.md"
    )
    parser.add_positional("out", type=Path, help="folder of the shards to create")
    return parser


def run_pack(arguments: argparse.Namespace) -> None:
    """Pack videos, images and questions into tar shards, and print a summary."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.data.packing.pack import pack

    summary = pack(arguments.files, arguments.questions, arguments.out, config.video, config.pack)
    print(describe_shards(arguments.out, summary))


def describe_shards(folder: Path | str, summary: PackSummary, **source: str) -> str:
    """Return what a folder of shards contains, what was skipped, and the next step.

    Args:
        folder: of the shards, or a pattern of tars.
        summary: of the shards.
        source: other settings of the data source; empty ones are left out.
    """
    from lit_hour.data.questions.record import format_counts

    values = {"shards": str(folder), **source}
    settings = shlex.join(
        f"data.sources.NAME.{key}={value}" for key, value in values.items() if value
    )
    return "\n".join(
        [
            f"{folder}: {summary.num_shards} shards with {format_counts(summary.num_samples)};"
            f" {summary.duration_seconds / 3600:.2f} hours of video,"
            f" {summary.num_questions} questions, {summary.num_frames} frames and images,"
            f" {summary.num_bytes / 1e6:.1f} MB",
            *(f"skipped {skipped.name}: {skipped.reason}" for skipped in summary.skipped),
            f"to train on them: python train.py -c FILE.yaml {settings}",
        ]
    )


def index_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of index."""
    parser = CommandParser(
        prog,
        description,
        settings_help="pack.num_workers, pack.max_bad_samples, data.cache_folder",
        takes_config=True,
    )
    parser.add_positional(
        "tars", nargs="+", help="tars, such as 'data/{00000..00099}.tar' or 'data/*.tar'"
    )
    parser.add_option("--mapping", default="", help=MAPPING_HELP)
    parser.add_option("--out", default="", help="folder of the indexes; default: beside each tar")
    return parser


def run_index(arguments: argparse.Namespace) -> None:
    """Make the indexes of tars that others wrote, and print a summary."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.config.data import SourceConfig
    from lit_hour.data.external.webdataset import open_webdataset
    from lit_hour.data.packing.pack import summarize_shards

    pattern = "::".join(arguments.tars)
    source = SourceConfig(pattern, mapping=arguments.mapping, index_folder=arguments.out)
    summary = summarize_shards(open_webdataset(source, config).indexes)
    settings = {"mapping": source.mapping, "index_folder": source.index_folder}
    print(describe_shards(pattern, summary, **settings))


def extract_features_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of extract-features."""
    parser = CommandParser(
        prog,
        description,
        settings_help="features.*, video.*, model.vision.*, data.num_workers, training.devices",
        takes_config=True,
    )
    parser.add_positional(
        "source",
        help="folder or URL of packed shards, or tars of others, 'data/{00000..00099}.tar'; with"
        " --questions, folder of the videos",
    )
    parser.add_positional("target", type=Path, help="folder of the feature shards to create")
    parser.add_option(
        "--questions", type=Path, help="question file about the videos, as for `lit-hour pack`"
    )
    parser.add_option("--mapping", default="", help=MAPPING_HELP)
    parser.add_option(
        "--run",
        type=Path,
        help="run whose encoder and settings are used, instead of --config",
    )
    parser.add_option("--checkpoint", help=CHECKPOINT_HELP)
    return parser


def run_extract_features(arguments: argparse.Namespace) -> None:
    """Encode videos into feature shards, and print a summary."""
    from lit_hour.training.extract_features import extract_features

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    summary = extract_features(
        arguments.source,
        arguments.target,
        arguments.overrides,
        files=arguments.config,
        questions=arguments.questions,
        mapping=arguments.mapping,
        run=arguments.run,
        checkpoint=arguments.checkpoint,
    )
    if summary is not None:
        print(describe_shards(arguments.target, summary))


COMMANDS = {
    "synthesize": Command(
        "create synthetic videos, and questions with known answers",
        synthesize_parser,
        run_synthesize,
    ),
    "pretrain-tower": Command(
        "pretrain a small vision tower on single frames of synthetic videos",
        pretrain_tower_parser,
        run_pretrain_tower,
    ),
    "pretrain-language": Command(
        "pretrain a small language model on the questions about synthetic videos",
        pretrain_language_parser,
        run_pretrain_language,
    ),
    "pack": Command(
        "pack videos, images and a question file into tar shards",
        pack_parser,
        run_pack,
    ),
    "index": Command(
        "index tars that others wrote, to train on them as they are",
        index_parser,
        run_index,
    ),
    "extract-features": Command(
        "encode shards or videos with the vision encoder into feature shards",
        extract_features_parser,
        run_extract_features,
    ),
}
