"""Commands about one video that do more than answer a question."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lit_hour.cli.command import (
    Command,
    add_run_options,
    add_sampling_options,
    read_sampling_params,
)
from lit_hour.cli.web_files import local_files
from lit_hour.config.arguments import CommandParser
from lit_hour.errors import QuestionError
from lit_hour.io.urls import is_url

TERMINAL = Path("/dev/tty")


def watch_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of watch."""
    parser = CommandParser(
        prog, description, settings_help="any setting of the run, such as video.fps=0.5"
    )
    parser.add_positional(
        "source", help="file that grows, pipe, - for standard input, or rtsp:// or http(s):// URL"
    )
    parser.add_positional(
        "question", nargs="?", help="question in quotes; without one, type questions at any time"
    )
    add_run_options(parser, takes_device=True)
    parser.add_option(
        "--every",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="ask the question every so many seconds of video; default: at the end alone",
    )
    parser.add_option(
        "--max-frames",
        type=int,
        help="frames in memory. When it is full, the newest half stays, and of the older ones every"
        " second one is dropped until a quarter of the memory is free; default: video.max_frames",
    )
    parser.add_option(
        "--stall-seconds",
        type=float,
        default=30.0,
        help="without new data, after which the source has ended; default: 30",
    )
    parser.add_option(
        "--save", type=Path, metavar="FILE", help="write the memory at the end, .safetensors"
    )
    add_sampling_options(parser)
    return parser


def run_watch(arguments: argparse.Namespace) -> None:
    """Read a live video, and answer questions about it meanwhile."""
    from lit_hour.inference.predictor import VideoPredictor
    from lit_hour.inference.video_memory_io import check_memory_name, save_memory
    from lit_hour.inference.watch import Watch
    from lit_hour.media.live_bytes import check_live_path
    from lit_hour.media.live_stream import LiveStream

    question = arguments.question
    if question is not None and not question.strip():
        raise QuestionError("The question is empty. Ask something.")
    if arguments.every and not question:
        raise QuestionError("--every asks a question again. Give the question in quotes.")
    for name in ("every", "stall_seconds"):
        value = getattr(arguments, name)
        if not 0 <= value < float("inf"):
            option = name.replace("_", "-")
            raise QuestionError(f"--{option} {value} is not a time. Give seconds, 0 or more.")
    if arguments.save is not None:
        check_memory_name(arguments.save)
    if not is_url(arguments.source):
        check_live_path(arguments.source)
    sampling = read_sampling_params(arguments)
    predictor = VideoPredictor.from_run(
        arguments.run, arguments.checkpoint, arguments.device, arguments.overrides
    )
    video = predictor.config.video
    stream = LiveStream(arguments.source, video, arguments.stall_seconds)
    max_frames = video.max_frames if arguments.max_frames is None else arguments.max_frames
    watch = Watch(predictor, stream, max_frames, sampling, question or "", arguments.every)
    watch.run(None if question else _line_reader(arguments.source))
    if arguments.save is not None:
        save_memory(predictor, watch.memory, arguments.save)
        print(f"{arguments.save}: {arguments.save.stat().st_size / 1e6:.1f} MB")


def _line_reader(source: str) -> Callable[[], str] | None:
    """Return a function that reads a question from the terminal, or from standard input.

    It returns None where both are the source, or there is no terminal.
    """
    from lit_hour.inference.watch import HELP

    if source != "-":
        if sys.stdin.isatty():
            print(HELP, flush=True)
        return input
    try:
        terminal = TERMINAL.open()
    except OSError:
        return None
    print(HELP, flush=True)

    def read_line() -> str:
        line = terminal.readline()
        if not line:
            raise EOFError
        return line

    return read_line


def describe_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of describe."""
    parser = CommandParser(
        prog, description, settings_help="any setting of the run, such as video.max_frames=600"
    )
    parser.add_positional("file", help="video or saved memory; a URL with --allow-url")
    add_run_options(parser, takes_device=True)
    parser.add_option(
        "--out",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="file to write: .json, .vtt (chapters) or .md; may be repeated. Default: Markdown on"
        " the terminal",
    )
    parser.add_option(
        "--seconds",
        type=float,
        default=60.0,
        help="parts of the video that are described one by one; default: 60",
    )
    parser.add_option(
        "--batch-size", type=int, default=4, help="questions that are answered at once; default: 4"
    )
    parser.add_option("--max-chapters", type=int, default=12, help="default: 12")
    parser.add_option(
        "--allow-url",
        action="store_true",
        help="read the file from an http(s) URL, of any address; it is not kept",
    )
    return parser


def run_describe(arguments: argparse.Namespace) -> None:
    """Describe a video with times, and write it to files or print it."""
    from lit_hour.inference.ask import load_or_encode
    from lit_hour.inference.describe import DescriptionParams, describe
    from lit_hour.inference.description_formats import (
        check_description_name,
        to_markdown,
        write_description,
    )
    from lit_hour.inference.predictor import VideoPredictor
    from lit_hour.inference.video_memory import check_input_files

    for path in arguments.out:
        check_description_name(path)
    params = DescriptionParams(arguments.seconds, arguments.batch_size, arguments.max_chapters)
    with local_files([arguments.file], arguments.allow_url) as paths:
        files = check_input_files(paths)
        if files.are_images:
            raise QuestionError(f"{paths[0]} is an image. Only a video can be described.")
        predictor = VideoPredictor.from_run(
            arguments.run, arguments.checkpoint, arguments.device, arguments.overrides
        )
        if predictor.group is not None:
            raise QuestionError("A video that is divided over processes cannot be described.")
        memory = load_or_encode(predictor, files)
    description = describe(predictor, memory, params, show_progress=True)
    for path in arguments.out:
        write_description(path, description)
        print(f"{path}: {len(description.chapters)} chapters, {len(description.events)} events")
    if not arguments.out:
        print(to_markdown(description), end="")


COMMANDS = {
    "describe": Command(
        "describe a video: chapters, events and a summary, with their times",
        describe_parser,
        run_describe,
    ),
    "watch": Command(
        "read a live video, and answer questions about it meanwhile",
        watch_parser,
        run_watch,
    ),
}
