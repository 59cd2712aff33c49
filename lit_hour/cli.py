"""Command line `lit-hour COMMAND`, also `python -m lit_hour COMMAND`.

Each command has a function that declares its arguments and one that runs it. Handlers import what
they need themselves, so that `--help` and a mistyped setting are answered without importing torch.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lit_hour import __version__
from lit_hour.cli_arguments import (
    annotate_parser,
    ask_parser,
    compare_parser,
    consolidate_parser,
    convert_parser,
    evaluate_parser,
    extract_features_parser,
    filter_parser,
    import_parser,
    index_parser,
    needle_parser,
    pack_parser,
    pretrain_language_parser,
    pretrain_tower_parser,
    serve_parser,
    synthesize_parser,
    transcribe_parser,
)
from lit_hour.config.arguments import CommandParser
from lit_hour.config.load import load_config
from lit_hour.errors import InputError, QuestionError

if TYPE_CHECKING:
    from lit_hour.data.packing.pack import PackSummary

PROG = "lit-hour"
EXTRAS = {
    **dict.fromkeys(("fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"), "serve"),
    **dict.fromkeys(("datasketch", "jsonschema", "openai"), "annotate"),
    **dict.fromkeys(("pyarrow", "pysubs2"), "evaluate"),
}  # optional library: the extra that installs it
RENAMED_COMMANDS = {"encode": "extract-features"}


class Command(NamedTuple):
    """A command: its help, and the functions that build its parser and run it."""

    help: str
    build_parser: Callable[[str, str], CommandParser]
    run: Callable[[argparse.Namespace], None]


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


def run_pretrain_tower(arguments: argparse.Namespace) -> None:
    """Pretrain a small vision tower on synthetic frames, and print what it reads."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.synthetic.pretrain_tower import pretrain_tower
    from lit_hour.synthetic.pretraining import format_accuracy

    print(f"{arguments.out}\n{format_accuracy(pretrain_tower(config, arguments.out))}")


def run_pretrain_language(arguments: argparse.Namespace) -> None:
    """Pretrain a small language model on synthetic questions, and print how well it answers."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.synthetic.pretrain_language import pretrain_language
    from lit_hour.synthetic.pretraining import format_accuracy

    print(f"{arguments.out}\n{format_accuracy(pretrain_language(config, arguments.out))}")


def run_pack(arguments: argparse.Namespace) -> None:
    """Pack videos, images and questions into tar shards, and print a summary."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.data.packing.pack import pack

    summary = pack(arguments.files, arguments.questions, arguments.out, config.video, config.pack)
    print(describe_shards(arguments.out, summary))


def describe_shards(folder: Path | str, summary: PackSummary) -> str:
    """Return what a folder of shards contains, what was skipped, and the next step."""
    from lit_hour.data.questions.record import format_counts

    return "\n".join(
        [
            f"{folder}: {summary.num_shards} shards with {format_counts(summary.num_samples)};"
            f" {summary.duration_seconds / 3600:.2f} hours of video,"
            f" {summary.num_questions} questions, {summary.num_frames} frames and images,"
            f" {summary.num_bytes / 1e6:.1f} MB",
            *(f"skipped {skipped.name}: {skipped.reason}" for skipped in summary.skipped),
            f"to train on them: python train.py -c FILE.yaml data.sources.NAME.shards={folder}",
        ]
    )


def run_index(arguments: argparse.Namespace) -> None:
    """Make the indexes of tars that others wrote, and print a summary."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.config.data import SourceConfig
    from lit_hour.data.external.webdataset import open_webdataset
    from lit_hour.data.packing.pack import summarize_shards

    pattern = "::".join(arguments.tars)
    source = SourceConfig(pattern, mapping=arguments.mapping, index_folder=arguments.out)
    summary = summarize_shards(open_webdataset(source, config).indexes)
    print(describe_shards(pattern, summary))


def run_annotate(arguments: argparse.Namespace) -> None:
    """Annotate videos with a teacher model, and print a summary and the next steps."""
    config = load_config(arguments.config, arguments.overrides)
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


def run_import(arguments: argparse.Namespace) -> None:
    """Convert a question file, and print what is missing."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.videomarathon.import_questions import (
        ImportOptions,
        format_import_report,
        import_questions,
    )

    options = ImportOptions(
        arguments.videos,
        arguments.by_id,
        arguments.manifest,
        config.videomarathon.max_missing_videos,
        config.videomarathon.max_invalid_records,
    )
    imported = import_questions(arguments.files, arguments.out, options)
    print(format_import_report(arguments.out, imported))


def run_filter(arguments: argparse.Namespace) -> None:
    """Filter the questions of a file, and print how many are left."""
    config = load_config(arguments.config, arguments.overrides)
    if arguments.teacher and not arguments.model:
        raise QuestionError("--teacher needs the name of the model on the server. Give --model.")
    from lit_hour.videomarathon.filter_file import filter_file, format_filter_report

    summary = filter_file(
        arguments.file,
        arguments.out,
        arguments.teacher,
        arguments.model or "",
        config.videomarathon,
    )
    print(format_filter_report(arguments.out, summary))


def run_transcribe(arguments: argparse.Namespace) -> None:
    """Write subtitles beside videos, and print a summary."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.videomarathon.transcribe import format_transcription_report, transcribe

    summary = transcribe(arguments.videos, arguments.server, arguments.model, config.videomarathon)
    print(format_transcription_report(arguments.videos, summary))


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


def run_ask(arguments: argparse.Namespace) -> None:
    """Answer one question, or start a conversation."""
    from lit_hour.inference.ask import Repl, load_or_encode, print_answer
    from lit_hour.inference.predictor import VideoPredictor
    from lit_hour.inference.video_memory import check_input_files

    question = arguments.question
    if question is not None and not question.strip():
        raise QuestionError("The question is empty. Ask something.")
    files = check_input_files([arguments.file, *arguments.also])
    if arguments.evidence and files.are_images:
        raise QuestionError(
            f"--evidence shows moments of a video, but {files.paths[0]} is an image. Leave it out."
        )
    predictor = VideoPredictor.from_run(
        arguments.run, arguments.checkpoint, arguments.device, arguments.overrides
    )
    memory = load_or_encode(predictor, files)
    if question is None:
        Repl(predictor, memory).run()
    else:
        print_answer(predictor, memory, question, arguments.evidence)


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


def run_compare(arguments: argparse.Namespace) -> None:
    """Compare two reports on one benchmark, and print the difference."""
    from lit_hour.evaluation.report.text import compare_reports

    print(compare_reports(arguments.first, arguments.second, arguments.out))


def run_convert(arguments: argparse.Namespace) -> None:
    """Convert a model between the Hugging Face layout and a run folder, and print a summary."""
    from lit_hour.weights.convert import convert

    converted = convert(
        arguments.source, arguments.target, arguments.overrides, arguments.checkpoint
    )
    print(converted.to_text())


def run_consolidate(arguments: argparse.Namespace) -> None:
    """Turn a sharded checkpoint into one file, and print a summary."""
    from lit_hour.training.checkpoints.consolidate import consolidate

    print(consolidate(arguments.source, arguments.target).to_text())


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
    "annotate": Command(
        "create captions, events and questions about videos with a teacher model",
        annotate_parser,
        run_annotate,
    ),
    "import": Command(
        "convert question files of other projects for `pack`",
        import_parser,
        run_import,
    ),
    "transcribe": Command(
        "write the speech in videos as subtitles beside them, by a speech server",
        transcribe_parser,
        run_transcribe,
    ),
    "filter": Command(
        "drop questions of a file that are given away, repeated or answered without the video",
        filter_parser,
        run_filter,
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
    "ask": Command("ask a trained run about a video or images", ask_parser, run_ask),
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
    "evaluate": Command("evaluate a trained run on a benchmark", evaluate_parser, run_evaluate),
    "compare": Command("compare two evaluation reports", compare_parser, run_compare),
    "convert": Command(
        "convert a published Hour-LLaVA to a run, or a run to the published layout",
        convert_parser,
        run_convert,
    ),
    "consolidate": Command(
        "turn a sharded checkpoint into one file that Lightning resumes",
        consolidate_parser,
        run_consolidate,
    ),
}
