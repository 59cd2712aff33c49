"""Commands that use a trained run."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from lit_hour.cli.command import (
    Command,
    add_run_options,
    add_sampling_options,
    parse_port,
    read_sampling_params,
)
from lit_hour.cli.web_files import local_files
from lit_hour.config.arguments import CommandParser
from lit_hour.errors import QuestionError


def ask_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of `ask`."""
    parser = CommandParser(
        prog,
        description,
        settings_help="any setting of the run, such as video.max_frames=600",
        explain_extra=_explain_extra_words,
    )
    parser.add_positional("file", help="video, image, or saved memory; a URL with --allow-url")
    parser.add_positional(
        "question", nargs="?", help="question in quotes; without one, a conversation starts"
    )
    add_run_options(parser, takes_device=True)
    parser.add_option("--also", action="append", default=[], help="further image; may be repeated")
    parser.add_option(
        "--allow-url",
        action="store_true",
        help="read files from http(s) URLs, of any address; they are not kept",
    )
    add_sampling_options(parser)
    parser.add_option(
        "--evidence",
        action="store_true",
        help="also show where in the video the model looked; takes several times as long",
    )
    return parser


def _explain_extra_words(words: list[str], extra: list[str]) -> str:
    """Explain why `ask` got more than a file and a question."""
    if os.path.exists(words[1]) or Path(words[1]).suffix[1:].isalnum():
        return (
            f"one video at a time: {words[0]} and {words[1]} take two commands."
            " Further images are given with --also"
        )
    question = " ".join(words[1:])
    return f'put the question in quotes: "{question}"'


def run_ask(arguments: argparse.Namespace) -> None:
    """Answer one question, or start a conversation."""
    from lit_hour.inference.ask import Repl, load_or_encode, print_answer, printed_by_rank_zero
    from lit_hour.inference.predictor import VideoPredictor
    from lit_hour.inference.video_memory import check_input_files

    question = arguments.question
    if question is not None and not question.strip():
        raise QuestionError("The question is empty. Ask something.")
    sampling = read_sampling_params(arguments)
    with local_files([arguments.file, *arguments.also], arguments.allow_url) as paths:
        files = check_input_files(paths)
        if arguments.evidence and files.are_images:
            raise QuestionError(
                f"--evidence shows moments of a video, but {files.paths[0]} is an image. Leave it"
                " out."
            )
        predictor = VideoPredictor.from_run(
            arguments.run, arguments.checkpoint, arguments.device, arguments.overrides
        )
        if predictor.group is not None and (question is None or arguments.evidence):
            raise QuestionError(
                "Several processes with model.memaug.shard_memory=true answer one question, without"
                " --evidence. Give the question on the command line."
            )
        memory = load_or_encode(predictor, files)
    with printed_by_rank_zero(predictor.group):
        if question is None:
            Repl(predictor, memory, sampling=sampling).run()
        else:
            print_answer(predictor, memory, question, arguments.evidence, sampling)


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
    add_run_options(parser, takes_device=True)
    return parser


def run_needle(arguments: argparse.Namespace) -> None:
    """Put needles into a video, answer questions about them, and print the accuracy."""
    from lit_hour.evaluation.needle.needle_plan import NeedleTest
    from lit_hour.evaluation.needle.run_needle import run_needle
    from lit_hour.inference.predictor import VideoPredictor

    test = NeedleTest.from_arguments(arguments)
    predictor = VideoPredictor.from_run(
        arguments.run, arguments.checkpoint, arguments.device, arguments.overrides
    )
    print(run_needle(predictor, test, arguments.out or arguments.run / "needle" / test.video.stem))


def serve_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of serve."""
    parser = CommandParser(
        prog,
        description,
        settings_help="any setting of the run, such as serving.server.max_videos=4",
    )
    add_run_options(parser, takes_device=True)
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


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve a run over HTTP until Ctrl-C."""
    from lit_hour.server.app import serve

    serve(
        arguments.run,
        arguments.host,
        arguments.port,
        arguments.videos,
        arguments.token_file,
        arguments.checkpoint,
        arguments.device,
        arguments.overrides,
    )


def evaluate_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of evaluate."""
    parser = CommandParser(
        prog,
        description,
        settings_help="evaluation.* and any setting of the run",
        takes_config=True,
    )
    add_run_options(parser)
    parser.add_option(
        "--out", type=Path, help="folder of answers and report; default: RUN/evaluation/NAME"
    )
    return parser


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a run on a benchmark, and print the score."""
    from lit_hour.evaluation.evaluate import evaluate

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    summary = evaluate(
        arguments.config,
        arguments.overrides,
        arguments.run,
        arguments.checkpoint,
        arguments.out,
    )
    if summary is not None:
        print(summary)


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


def run_compare(arguments: argparse.Namespace) -> None:
    """Compare two reports on one benchmark, and print the difference."""
    from lit_hour.evaluation.report.text import compare_reports

    print(compare_reports(arguments.first, arguments.second, arguments.out))


COMMANDS = {
    "ask": Command(
        "ask a trained run about a video or images",
        ask_parser,
        run_ask,
    ),
    "needle": Command(
        "put a picture or clip into your own video, and test whether a run finds it",
        needle_parser,
        run_needle,
    ),
    "serve": Command(
        "serve a trained run: web page and OpenAI's chat interface",
        serve_parser,
        run_serve,
    ),
    "evaluate": Command(
        "evaluate a trained run on a benchmark",
        evaluate_parser,
        run_evaluate,
    ),
    "compare": Command(
        "compare two evaluation reports",
        compare_parser,
        run_compare,
    ),
}
