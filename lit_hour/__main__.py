"""python -m lit_hour VERB: pack videos into shards, ask a trained run about a video."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from lit_hour.config.command_line import parse_command_line
from lit_hour.errors import InputError


def main(words: list[str]) -> None:
    """Run one verb. Each imports what it needs itself, so that --help answers at once."""
    parser = argparse.ArgumentParser(prog="python -m lit_hour", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    packing = verbs.add_parser("pack", help="videos and a question file -> tar shards")
    packing.add_argument("videos", type=Path, help="folder of videos")
    packing.add_argument("questions", type=Path, help="question file: .json or .jsonl, see shards/README.md")
    packing.add_argument("out", type=Path, help="folder of the shards")
    packing.add_argument("settings", nargs="*", help="[conf/NAME.yaml] [key=value ...]: the groups video and pack count")
    packing.set_defaults(run=run_pack)

    asking = verbs.add_parser("ask", help="a question about a video, answered by a trained run")
    asking.add_argument("video", type=Path, help="a video file")
    asking.add_argument("question", help="a question about it")
    asking.add_argument("settings", nargs="*", help="[key=value ...] over the run's settings: video.on_damage=use")
    asking.add_argument("--run", dest="run_folder", type=Path, required=True, help="run folder, such as runs/tiny")
    asking.add_argument("--checkpoint", help="a name in RUN/checkpoints; best, or else last, if not given")
    asking.add_argument("--device", help="cpu or cuda; a GPU is taken when there is one")
    asking.set_defaults(run=run_ask)

    arguments, late_words = parser.parse_known_args(words)  # argparse does not take key=value words that follow an option
    if options := [word for word in late_words if "=" not in word or word.startswith("-")]:
        parser.error(f"unknown: {' '.join(options)}")
    arguments.settings += late_words
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    arguments.run(arguments)


def run_pack(arguments: argparse.Namespace) -> None:
    """Pack, and say what was packed."""
    config = parse_command_line(arguments.settings)
    from lit_hour.data.pack import pack

    summary = pack(arguments.videos, arguments.questions, arguments.out, config.video, config.pack)
    print(
        f"{arguments.out}: {summary.num_shards} shards with {summary.num_videos} videos"
        f" ({summary.duration_seconds / 3600:.2f} hours), {summary.num_questions} questions, {summary.num_frames} frames,"
        f" {summary.bytes / 1e6:.1f} MB"
    )
    for skipped in summary.skipped:
        print(f"skipped {skipped.video}: {skipped.reason}")
    print(f"to train on them: python train.py FILE.yaml data.sources.NAME.shards={arguments.out}")


def run_ask(arguments: argparse.Namespace) -> None:
    """Read the video, print the answer as it comes, then what it took."""
    from lit_hour.serving.session import Session
    from lit_hour.types import Answer
    from lit_hour.video.decode import probe

    probe(arguments.video)
    session = Session.open(arguments.run_folder, arguments.checkpoint, arguments.device, arguments.settings)
    session.processor.ask(arguments.question)  # an empty question is refused before an hour of video is read
    memory = session.remember(arguments.video)
    for piece in session.ask(memory, arguments.question):
        if isinstance(piece, Answer):
            parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in piece.seconds.items())
            print(f"\n[{piece.num_frames} frames, {piece.num_memory_tokens} tokens in memory; {parts}]")
        else:
            print(piece, end="", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
