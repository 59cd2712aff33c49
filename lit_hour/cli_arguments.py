"""Arguments of each command of `lit-hour`: one function per command, which returns its parser."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lit_hour.config.arguments import CommandParser

CHECKPOINT_HELP = "name in RUN/checkpoints; default: best, last or converted"

MAPPING_HELP = "YAML file of the fields in tars of others; see shards/README.md"


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


def pack_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of pack."""
    parser = CommandParser(prog, description, settings_help="video.*, pack.*", takes_config=True)
    parser.add_positional("files", type=Path, help="folder of the videos and images")
    parser.add_positional(
        "questions", type=Path, help="question file, .json or .jsonl; see shards/README.md"
    )
    parser.add_positional("out", type=Path, help="folder of the shards to create")
    return parser


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


def annotate_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of annotate."""
    parser = CommandParser(prog, description, settings_help="videomarathon.*", takes_config=True)
    parser.add_positional("videos", type=Path, help="folder of the videos, at any depth")
    parser.add_positional(
        "out", type=Path, help="folder to create; the same command resumes one that was stopped"
    )
    parser.add_option(
        "--teacher",
        action="append",
        required=True,
        metavar="URL",
        help="server with OpenAI's chat interface; may be repeated",
    )
    parser.add_option("--model", required=True, help="name of the model on the servers")
    parser.add_option(
        "--share",
        metavar="3/16",
        help="annotate the third of 16 parts of the videos, without aggregating",
    )
    return parser


def import_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of import."""
    parser = CommandParser(
        prog,
        description,
        settings_help="videomarathon.max_missing_videos, videomarathon.max_invalid_records",
        takes_config=True,
    )
    parser.add_positional(
        "files",
        nargs="+",
        help="question files: .json, .jsonl, .csv, .tsv, .parquet; patterns, and URLs such as"
        " hf://datasets/NAME/data/*.parquet",
    )
    parser.add_positional("out", type=Path, help="folder to create, with links to the videos")
    parser.add_option(
        "--videos",
        type=Path,
        action="append",
        default=[],
        help="folder that contains videos; may be repeated",
    )
    parser.add_option(
        "--by-id",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder of videos named after their ids, ID.mp4; may be repeated",
    )
    parser.add_option(
        "--manifest",
        type=Path,
        metavar="FILE.csv",
        help="write id, URL, source, expected path and status of each video; any number may be"
        " missing then",
    )
    return parser


def transcribe_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of transcribe."""
    parser = CommandParser(
        prog, description, settings_help="videomarathon.client.*", takes_config=True
    )
    parser.add_positional("videos", type=Path, help="folder of the videos, at any depth")
    parser.add_option(
        "--server",
        required=True,
        metavar="URL",
        help="server with OpenAI's interface for transcriptions, http://localhost:8000/v1",
    )
    parser.add_option("--model", required=True, help="name of the speech model on the server")
    return parser


def filter_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of filter."""
    parser = CommandParser(
        prog, description, settings_help="videomarathon.filters.*", takes_config=True
    )
    parser.add_positional(
        "file", type=Path, help="question file, .json or .jsonl; see shards/README.md"
    )
    parser.add_positional(
        "out", type=Path, help="folder to create; the same command resumes one that was stopped"
    )
    parser.add_option(
        "--teacher",
        action="append",
        default=[],
        metavar="URL",
        help="server with OpenAI's chat interface, which guesses without the video; may be"
        " repeated. Without one only the texts are compared",
    )
    parser.add_option("--model", help="name of the model on the servers")
    return parser


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


def ask_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of ask."""
    parser = CommandParser(
        prog,
        description,
        settings_help="any setting of the run, such as video.max_frames=600",
        explain_extra=_explain_extra_words,
    )
    parser.add_positional("file", type=Path, help="video, image, or saved memory")
    parser.add_positional(
        "question", nargs="?", help="question in quotes; without one, a conversation starts"
    )
    _add_run_options(parser, takes_device=True)
    parser.add_option(
        "--also", type=Path, action="append", default=[], help="further image; may be repeated"
    )
    parser.add_option(
        "--evidence",
        action="store_true",
        help="also show where in the video the model looked; takes several times as long",
    )
    return parser


def needle_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of needle."""
    parser = CommandParser(
        prog, description, settings_help="any setting of the run, such as video.max_frames=600"
    )
    parser.add_positional("video", type=Path, help="your video, the haystack")
    parser.add_option(
        "--insert",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="image or clip to put into the video, the needle; may be repeated",
    )
    parser.add_option(
        "--question", action="append", required=True, help="what is asked: one, or one per --insert"
    )
    parser.add_option(
        "--answer",
        action="append",
        default=[],
        help="the true answer, one per --insert; default: the answer about the needle alone",
    )
    parser.add_option(
        "--option",
        action="append",
        default=[],
        help="text to choose from; repeat it for each, and the questions are multiple choice",
    )
    parser.add_option(
        "--depths", default="0,25,50,75,100", help="percentages of the video before the needle"
    )
    parser.add_option(
        "--lengths",
        help="durations such as 5m,30m,1h; a shorter video is repeated. Default: that of the video",
    )
    parser.add_option(
        "--seconds",
        type=float,
        default=3.0,
        help="for which an image is shown, and the most of a clip; default: 3",
    )
    parser.add_option(
        "--repeats",
        type=int,
        default=1,
        help="parts of the video that are used for each length; default: 1",
    )
    parser.add_option("--out", type=Path, help="folder of the result; default: RUN/needle/VIDEO")
    _add_run_options(parser, takes_device=True)
    return parser


def serve_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of serve."""
    parser = CommandParser(
        prog,
        description,
        settings_help="any setting of the run, such as serving.server.max_videos=4",
    )
    _add_run_options(parser, takes_device=True)
    parser.add_option(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but loopback requires --token-file",
    )
    parser.add_option(
        "--port", type=parse_port, default=8000, help="default: 8000; 0 for any free port"
    )
    parser.add_option(
        "--videos",
        type=Path,
        action="append",
        default=[],
        help="folder whose videos clients may use; may be repeated",
    )
    parser.add_option("--token-file", type=Path, help="file with the token that clients must send")
    return parser


def _add_run_options(parser: CommandParser, takes_device: bool = False) -> None:
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


def _explain_extra_words(words: list[str], extra: list[str]) -> str:
    """Explain why `ask` got more than a file and a question."""
    if os.path.exists(words[1]) or Path(words[1]).suffix[1:].isalnum():
        return (
            f"one video at a time: {words[0]} and {words[1]} take two commands."
            " Further images are given with --also"
        )
    question = " ".join(words[1:])
    return f'put the question in quotes: "{question}"'


def evaluate_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of evaluate."""
    parser = CommandParser(
        prog,
        description,
        settings_help="evaluation.* and any setting of the run",
        takes_config=True,
    )
    _add_run_options(parser)
    parser.add_option(
        "--out", type=Path, help="folder of answers and report; default: RUN/evaluation/NAME"
    )
    return parser


def compare_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of compare."""
    parser = CommandParser(prog, description)
    parser.add_positional("first", type=Path, help="report.json, or the folder that contains it")
    parser.add_positional("second", type=Path, help="report.json, or the folder that contains it")
    parser.add_option(
        "--out",
        type=Path,
        default=Path("comparison.html"),
        help="HTML page to write; default: comparison.html",
    )
    return parser


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
    return parser


def consolidate_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of consolidate."""
    parser = CommandParser(prog, description)
    parser.add_positional("source", type=Path, help="sharded checkpoint: RUN/checkpoints/NAME")
    parser.add_positional("target", type=Path, help="file to create, such as OUT.ckpt")
    return parser
