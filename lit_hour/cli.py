"""python -m lit_hour VERB: make up, annotate, pack or encode videos, ask, serve, evaluate a run, convert published weights."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lit_hour.config.load import parse_command_line, split_words
from lit_hour.errors import InputError, QuestionError

if TYPE_CHECKING:
    from lit_hour.data.packing.pack import PackSummary


def main(words: list[str]) -> None:
    """Run one verb. Each imports what it needs itself, so that --help answers at once."""
    parser = argparse.ArgumentParser(prog="python -m lit_hour", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    making = verbs.add_parser(
        "synthesize", help="nothing -> made-up videos, and questions whose answers are known"
    )
    making.add_argument(
        "out", type=Path, help="folder of the set; the same words go on with one that was stopped"
    )
    making.add_argument("--hours", type=float, required=True, help="hours of video in all")
    making.add_argument(
        "--length",
        default="3m-10m",
        help="of a video: 90s, 1h, or shortest and longest; 3m-10m if not given",
    )
    making.add_argument(
        "--seed", type=int, help="another seed makes other videos; synthetic.seed if not given"
    )
    making.add_argument("--tasks", help="tasks to ask about, with commas between; all if not given")
    making.add_argument(
        "settings", nargs="*", help="[conf/NAME.yaml] [key=value ...]: only the section synthetic is used"
    )
    making.set_defaults(run=run_synthesize)

    packing = verbs.add_parser("pack", help="videos, pictures and a question file -> tar shards")
    packing.add_argument(
        "files", type=Path, help="folder of the videos and pictures that are asked about"
    )
    packing.add_argument(
        "questions", type=Path, help="question file: .json or .jsonl, see shards/README.md"
    )
    packing.add_argument("out", type=Path, help="folder of the shards")
    packing.add_argument(
        "settings",
        nargs="*",
        help="[conf/NAME.yaml] [key=value ...]: the groups video and pack count",
    )
    packing.set_defaults(run=run_pack)

    add_annotate(verbs)
    add_import(verbs)

    encoding = verbs.add_parser(
        "encode",
        help="shards of frames, or videos, -> shards of what a vision encoder makes of them",
    )
    encoding.add_argument(
        "source", help="folder or URL of packed shards; with --questions the folder of the videos"
    )
    encoding.add_argument("target", type=Path, help="folder of the feature shards")
    encoding.add_argument(
        "settings",
        nargs="*",
        help="[conf/NAME.yaml] [key=value ...]: whose encoder and start it is",
    )
    encoding.add_argument(
        "--questions", type=Path, help="question file about the videos, as pack takes it"
    )
    encoding.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        help="run whose encoder it is, instead of conf/NAME.yaml",
    )
    encoding.add_argument(
        "--checkpoint", help="a name in RUN/checkpoints; best, last or converted if not given"
    )
    encoding.set_defaults(run=run_encode)

    asking = verbs.add_parser(
        "ask", help="questions about a video or pictures, answered by a trained run"
    )
    asking.add_argument(
        "file", type=Path, help="a video file, a picture, or a memory that was saved"
    )
    asking.add_argument(
        "question", nargs="?", help="a question about it; none: a conversation on the terminal"
    )
    asking.add_argument(
        "settings",
        nargs="*",
        help="[key=value ...] over the run's settings: video.on_decode_error=truncate",
    )
    asking.add_argument(
        "--run", dest="run_folder", type=Path, required=True, help="run folder, such as runs/tiny"
    )
    asking.add_argument(
        "--also",
        type=Path,
        action="append",
        default=[],
        help="one more picture; may be given again",
    )
    asking.add_argument(
        "--checkpoint", help="a name in RUN/checkpoints; best, last or converted if not given"
    )
    asking.add_argument("--device", help="cpu or cuda; a GPU is taken when there is one")
    asking.set_defaults(run=run_ask)

    add_serve(verbs)
    add_evaluate(verbs)

    converting = verbs.add_parser(
        "convert", help="a published Hour-LLaVA -> a run, or a run -> the published layout"
    )
    converting.add_argument(
        "source", type=Path, help="folder in the Hugging Face layout, or a run folder"
    )
    converting.add_argument("target", type=Path, help="folder to be made")
    converting.add_argument(
        "settings", nargs="*", help="[key=value ...] over the source's: model.vision.weights=FOLDER"
    )
    converting.add_argument(
        "--checkpoint",
        help="of a run, a name in RUN/checkpoints; best, last or converted if not given",
    )
    converting.set_defaults(run=run_convert)

    arguments, late_words = parser.parse_known_args(
        words
    )  # argparse takes no settings that follow an option
    is_setting = re.compile(
        r"(?!-).*(=.*|\.yaml)" if "settings" in arguments else "(?!)", re.DOTALL
    )
    if unknown := [word for word in late_words if not is_setting.fullmatch(word)]:
        parser.error(f"unknown: {' '.join(unknown)}")
    arguments.settings = [*getattr(arguments, "settings", ()), *late_words]
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    arguments.run(arguments)


def run_synthesize(arguments: argparse.Namespace) -> None:
    """Make the set, and say what to do with it."""
    given = {"seed": arguments.seed, "tasks": arguments.tasks}
    words = [f"synthetic.{name}={value}" for name, value in given.items() if value is not None]
    config = parse_command_line([*arguments.settings, *words])
    from lit_hour.synthetic.dataset import synthesize

    print(synthesize(arguments.out, arguments.hours, arguments.length, config.synthetic))


def run_pack(arguments: argparse.Namespace) -> None:
    """Pack, and say what was packed."""
    config = parse_command_line(arguments.settings)
    from lit_hour.data.packing.pack import pack

    print(
        report_shards(
            arguments.out,
            pack(arguments.files, arguments.questions, arguments.out, config.video, config.pack),
        )
    )


def add_annotate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of annotate."""
    annotating = verbs.add_parser(
        "annotate", help="videos and a model server -> captions, events and questions about them"
    )
    annotating.add_argument("videos", type=Path, help="folder of the videos, at any depth")
    annotating.add_argument(
        "out",
        type=Path,
        help="folder of the annotations; the same words go on with one that was stopped",
    )
    annotating.add_argument(
        "--teacher",
        action="append",
        required=True,
        metavar="URL",
        help="chat server; may be given again",
    )
    annotating.add_argument(
        "--model", required=True, help="name by which the servers know the model"
    )
    annotating.add_argument(
        "--share",
        metavar="3/16",
        help="annotate the third of 16 parts of the videos, and gather nothing",
    )
    annotating.add_argument(
        "settings", nargs="*", help="[conf/NAME.yaml] [key=value ...]: the group marathon counts"
    )
    annotating.set_defaults(run=run_annotate)


def add_import(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of import."""
    importing = verbs.add_parser(
        "import", help="a question file from elsewhere, and where its videos lie -> what pack takes"
    )
    importing.add_argument(
        "file",
        type=Path,
        help="LLaVA's form or ours, as .json, .jsonl or .csv; see shards/README.md",
    )
    importing.add_argument("out", type=Path, help="folder to be made, with links to the videos")
    importing.add_argument(
        "--videos",
        type=Path,
        action="append",
        required=True,
        help="folder to look in; may be given again",
    )
    importing.add_argument(
        "settings", nargs="*", help="[key=value ...]: videomarathon.max_missing_videos counts"
    )
    importing.set_defaults(run=run_import)


def add_serve(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of serve."""
    serving = verbs.add_parser(
        "serve", help="a trained run -> a web page, and OpenAI's chat interface, about videos"
    )
    serving.add_argument(
        "settings",
        nargs="*",
        help="[key=value ...] over the run's settings: serving.server.max_videos=4",
    )
    serving.add_argument(
        "--run", dest="run_folder", type=Path, required=True, help="run folder, such as runs/tiny"
    )
    serving.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but loopback needs --token-file",
    )
    serving.add_argument(
        "--port", type=int, default=8000, help="8000 if not given; 0: any that is free"
    )
    serving.add_argument(
        "--videos",
        type=Path,
        action="append",
        default=[],
        help="folder to ask about; may be given again",
    )
    serving.add_argument(
        "--token-file", type=Path, help="file with the token that every client has to give"
    )
    serving.add_argument(
        "--checkpoint", help="a name in RUN/checkpoints; best, last or converted if not given"
    )
    serving.add_argument("--device", help="cpu or cuda; a GPU is taken when there is one")
    serving.set_defaults(run=run_serve)


def add_evaluate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words of evaluate and of compare."""
    evaluating = verbs.add_parser(
        "evaluate", help="a run and the question files of a benchmark -> a score with its protocol"
    )
    evaluating.add_argument(
        "settings",
        nargs="*",
        help="[conf/eval/NAME.yaml] [key=value ...], laid over those of the run",
    )
    evaluating.add_argument(
        "--run", dest="run_folder", type=Path, required=True, help="run folder, such as runs/tiny"
    )
    evaluating.add_argument(
        "--checkpoint", help="a name in RUN/checkpoints; best, last or converted if not given"
    )
    evaluating.add_argument(
        "--out", type=Path, help="folder of answers and report; RUN/evaluation/NAME if not given"
    )
    evaluating.set_defaults(run=run_evaluate)

    comparing = verbs.add_parser(
        "compare", help="two reports on one benchmark -> which is better, and how sure that is"
    )
    comparing.add_argument("first", type=Path, help="report.json, or the folder that holds it")
    comparing.add_argument("second", type=Path, help="report.json, or the folder that holds it")
    comparing.add_argument(
        "--out",
        type=Path,
        default=Path("comparison.html"),
        help="page to write; comparison.html if not given",
    )
    comparing.set_defaults(run=run_compare)


def run_import(arguments: argparse.Namespace) -> None:
    """Bring a question file in, and say what is missing."""
    config = parse_command_line(arguments.settings)
    from lit_hour.videomarathon.import_questions import format_import_report, import_questions

    imported = import_questions(
        arguments.file, arguments.videos, arguments.out, config.videomarathon.max_missing_videos
    )
    print(format_import_report(arguments.out, imported))


def run_annotate(arguments: argparse.Namespace) -> None:
    """Annotate, and say what came of it and what to do with it."""
    config = parse_command_line(arguments.settings)
    from lit_hour.videomarathon.aggregate import format_report
    from lit_hour.videomarathon.annotate import (
        Share,
        annotate,
        annotate_share,
        format_share_report,
    )

    given = (
        arguments.videos,
        arguments.out,
        arguments.teacher,
        arguments.model,
        config.videomarathon,
    )
    if arguments.share is None:
        print(format_report(arguments.videos, arguments.out, annotate(*given)))
    else:
        share = Share.parse(arguments.share)
        job = annotate_share(share, *given)
        num_videos, num_unfinished = len(job.fingerprints), len(job.unfinished())
        print(format_share_report(share, num_videos, num_unfinished, job.failed))


def run_encode(arguments: argparse.Namespace) -> None:
    """Encode, and say what was encoded."""
    from lit_hour.training.extract_features import extract_features

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    summary = extract_features(
        arguments.source,
        arguments.target,
        arguments.settings,
        questions=arguments.questions,
        run=arguments.run_folder,
        checkpoint=arguments.checkpoint,
    )
    if summary is not None:
        print(report_shards(arguments.target, summary))


def report_shards(folder: Path, summary: PackSummary) -> str:
    """What a folder of shards holds, what it lacks, and what to do with it."""
    from lit_hour.data.questions.record import spell_counts

    totals = (
        f"{folder}: {summary.num_shards} shards with {spell_counts(summary.num_subjects)};"
        f" {summary.duration_seconds / 3600:.2f} hours of video, {summary.num_questions} questions,"
        f" {summary.num_frames} frames and pictures, {summary.bytes / 1e6:.1f} MB"
    )
    skipped = [f"skipped {each.name}: {each.reason}" for each in summary.skipped]
    return "\n".join(
        [
            totals,
            *skipped,
            f"to train on them: python train.py FILE.yaml data.sources.NAME.shards={folder}",
        ]
    )


def run_ask(arguments: argparse.Namespace) -> None:
    """Answer a question, or any number of them."""
    from lit_hour.inference.inputs import open_input_files
    from lit_hour.inference.predictor import VideoPredictor
    from lit_hour.inference.repl import Repl, load_or_encode, print_answer

    question = arguments.question
    if question is not None and not question.strip():
        raise QuestionError("The question is empty. Ask something.")
    files = open_input_files([arguments.file, *arguments.also])
    predictor = VideoPredictor.from_run(
        arguments.run_folder, arguments.checkpoint, arguments.device, arguments.settings
    )
    memory = load_or_encode(predictor, files)
    if question is None:
        Repl(predictor, memory).run()
    else:
        print_answer(predictor, memory, question)


def run_serve(arguments: argparse.Namespace) -> None:
    """Answer until Ctrl-C."""
    from lit_hour.server.app import serve

    given = (
        arguments.run_folder,
        arguments.host,
        arguments.port,
        arguments.videos,
        arguments.token_file,
    )
    serve(*given, arguments.checkpoint, arguments.device, arguments.settings)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the score."""
    file, settings = split_words(arguments.settings)
    from lit_hour.evaluation.evaluate import evaluate

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    summary = evaluate(file, settings, arguments.run_folder, arguments.checkpoint, arguments.out)
    if summary is not None:
        print(summary)


def run_compare(arguments: argparse.Namespace) -> None:
    """Compare, and print the difference."""
    from lit_hour.evaluation.report.text import compare_reports

    print(compare_reports(arguments.first, arguments.second, arguments.out))


def run_convert(arguments: argparse.Namespace) -> None:
    """Convert, and say what was converted and what was left out."""
    from lit_hour.weights.convert import convert

    print(
        convert(
            arguments.source, arguments.target, arguments.settings, arguments.checkpoint
        ).to_text()
    )


def console_main() -> None:
    """Run the command line, and report invalid input in one line."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
