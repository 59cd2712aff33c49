"""Target 7: how soon the command line answers, and how soon the default run has done its first step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.speed.harness.outcome import Goal, Outcome

REPOSITORY = Path(__file__).parents[4]
NUM_ROUNDS = 3
COMMANDS = {
    "python train.py --help": ["train.py", "--help"],
    "python -m lit_hour --help": ["-m", "lit_hour", "--help"],
}
UNDER_TWO_SECONDS, UNDER_TWENTY_SECONDS = (
    Goal("at most", 2, "nothing"),
    Goal("at most", 20, "nothing"),
)


def measure() -> Iterator[Outcome]:
    """The command line's help, then the default run: with its data still to be made, and with them there."""
    for title, words in COMMANDS.items():
        seconds = min(seconds_of(words) for _ in range(NUM_ROUNDS))
        why = "the time is that of Python's start and of imports"
        yield Outcome(7, title, "s", seconds, goal=UNDER_TWO_SECONDS, why=why)
    with TemporaryDirectory() as folder:
        first = run_to_first_step(Path(folder))
        again = [run_to_first_step(Path(folder)) for _ in range(NUM_ROUNDS - 1)]
    title = "the default run to its first step"
    yield Outcome(
        7,
        f"{title}, its videos still to be made",
        "s",
        first["first step"],
        goal=UNDER_TWENTY_SECONDS,
        why=f"{spell(first)}; 257 videos are drawn, encoded and packed on all cores before training begins",
    )
    best = min(again, key=lambda times: times["first step"])
    yield Outcome(
        7,
        f"{title}, its videos there",
        "s",
        best["first step"],
        goal=UNDER_TWENTY_SECONDS,
        why=spell(best),
    )


def seconds_of(words: list[str]) -> float:
    """From the start of a Python process to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_to_first_step(folder: Path) -> dict[str, float]:
    """Seconds from the start of the process to the end of each part of a new run, in order; the world stays in the folder."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    words = [f"run.folder={folder}/runs", f"synthetic.folder={folder}/world"]
    for group, split in (("sources", "train"), ("val_sources", "validation")):
        words.append(f"data.{group}.world.shards={folder}/world/{split}/shards")
    started = time.time()
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.speed.startup.first_step",
        str(folder / "times.json"),
        *words,
    ]
    subprocess.run(
        command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    times: dict[str, float] = json.loads((folder / "times.json").read_text())
    since = {part: moment - started for part, moment in times.items()}
    print(f"first step after {since['first step']:.1f} s: {spell(since)}", flush=True)
    return since


def spell(since: dict[str, float]) -> str:
    """What each part took: "imports 4.0 s, videos and shards 30.1 s, ..."."""
    parts = sorted(since.items(), key=lambda part: part[1])
    before = [0.0, *(moment for _, moment in parts)]
    return ", ".join(
        f"{part} {moment - start:.1f} s"
        for (part, moment), start in zip(parts, before, strict=False)
    )
