"""Accuracy of `lit-hour describe`: listed events against the truth of the synthetic world.

    python -m tests.benchmarks.description_accuracy SET RUN [RUN ...]

SET is a folder of `lit-hour synthesize`, such as shards/world/validation of its videos. Settings
(`key=value`) may follow. A row of a table is printed for each run, with means over the videos.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean

from lit_hour.config.arguments import is_override
from lit_hour.evaluation.event_scores import EventScores, score_events
from lit_hour.inference.describe import describe
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.text.chapters import Passage

TITLES = ("run", "videos", "recall within 5 s", "precision", "error of start", "error of end")


def main(folder: Path, *words: str) -> None:
    """Describe every video with every run, and print the scores."""
    overrides = [word for word in words if is_override(word)]
    print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}")
    for run in (word for word in words if word not in overrides):
        predictor = VideoPredictor.from_run(Path(run), overrides=overrides)
        scores = [
            score_events(true, describe(predictor, predictor.encode_video(video)).events)
            for video, true in videos_with_events(folder)
        ]
        print(format_row(run, scores), flush=True)


def videos_with_events(folder: Path) -> list[tuple[Path, list[Passage]]]:
    """Return the videos of a set, and their true events."""
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [
        (folder / "videos" / record["video"], [Passage(**event) for event in record["events"]])
        for record in records
        if record["events"]
    ]


def format_row(run: str, scores: list[EventScores]) -> str:
    """Return the means over the videos as a row of the table."""
    errors = [
        [error for error in (getattr(score, name) for score in scores) if error is not None]
        for name in ("start_error_seconds", "end_error_seconds")
    ]
    cells = (
        run,
        str(len(scores)),
        f"{mean(score.recall for score in scores):.1%}",
        f"{mean(score.precision for score in scores):.1%}",
        *(f"{mean(values):.1f} s" if values else "none" for values in errors),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
