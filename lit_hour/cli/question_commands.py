"""Commands that make question files: annotation, import, filters, subtitles."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_hour.cli.command import Command
from lit_hour.config.arguments import CommandParser
from lit_hour.config.load import load_config
from lit_hour.errors import QuestionError


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


def run_transcribe(arguments: argparse.Namespace) -> None:
    """Write subtitles beside videos, and print a summary."""
    config = load_config(arguments.config, arguments.overrides)
    from lit_hour.videomarathon.transcribe import format_transcription_report, transcribe

    summary = transcribe(arguments.videos, arguments.server, arguments.model, config.videomarathon)
    print(format_transcription_report(arguments.videos, summary))


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


COMMANDS = {
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
}
