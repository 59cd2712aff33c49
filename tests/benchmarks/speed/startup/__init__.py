"""Target 7: time of the command line's help, and time of the default run to its first step."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from lit_hour.media.selective_decoding import num_available_cpus
from tests import REPOSITORY
from tests.benchmarks.speed.harness.outcome import Goal, Outcome

TARGET = 7
NUM_ROUNDS = 3
COMMANDS = {
    "python train.py --help": ["train.py", "--help"],
    "python -m lit_hour --help": ["-m", "lit_hour", "--help"],
}
HELP_GOAL = Goal("at most", 2, "nothing")
FIRST_STEP_GOAL, READY_GOAL = Goal("at most", 20, "nothing"), Goal("at most", 10, "nothing")


def measure() -> Iterator[Outcome]:
    """Measure the help of both command lines, then the default run without and with its data."""
    for title, arguments in COMMANDS.items():
        seconds = min(process_seconds(arguments) for _ in range(NUM_ROUNDS))
        why = "the time is that of Python's start and of imports"
        yield Outcome(TARGET, title, "s", seconds, goal=HELP_GOAL, why=why)
    with TemporaryDirectory() as folder:
        before = core_seconds_of_children()
        first = run_to_first_step(Path(folder))
        core_seconds = core_seconds_of_children() - before
        others = [run_to_first_step(Path(folder)) for _ in range(NUM_ROUNDS - 1)]
    title = "the default run to its first step"
    yield Outcome(
        TARGET,
        f"{title}, its videos still to be made",
        "s",
        first["first step"],
        goal=FIRST_STEP_GOAL,
        why=f"{describe_parts(first)}; 256 videos are drawn and encoded, and their frames read, on"
        " all cores, from the start of the imports on. All processes together take"
        f" {core_seconds:.0f} core seconds, so {num_available_cpus()} cores need at least"
        f" {core_seconds / num_available_cpus():.0f} s",
    )
    best = min(others, key=lambda times: times["first step"])
    yield Outcome(
        TARGET,
        f"{title}, its videos there",
        "s",
        best["first step"],
        goal=READY_GOAL,
        why=describe_parts(best),
    )


def core_seconds_of_children() -> float:
    """Return the CPU time of the processes that have ended, with their own children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def process_seconds(arguments: list[str]) -> float:
    """Return the seconds from the start of a Python process to its end."""
    command = [sys.executable, *arguments]
    started = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_to_first_step(folder: Path) -> dict[str, float]:
    """Run until the first step; the videos stay in the folder.

    Returns:
        By part, the seconds from the start of the process to the end of the part, in time order.
    """
    shutil.rmtree(folder / "runs", ignore_errors=True)
    overrides = [f"run.folder={folder}/runs", f"synthetic.folder={folder}/data"]
    for group, split in (("sources", "train"), ("val_sources", "validation")):
        overrides.append(f"data.{group}.world.shards={folder}/data/{split}/shards")
    module = "tests.benchmarks.speed.startup.first_step"
    command = [sys.executable, "-m", module, str(folder / "times.json"), *overrides]
    started = time.time()
    subprocess.run(
        command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    times: dict[str, float] = json.loads((folder / "times.json").read_text())
    since_start = {part: moment - started for part, moment in times.items()}
    print(
        f"first step after {since_start['first step']:.1f} s: {describe_parts(since_start)}",
        flush=True,
    )
    return since_start


def describe_parts(since_start: dict[str, float]) -> str:
    """Return the duration of each part: "imports 4.0 s, videos and shards 30.1 s, ..."."""
    parts = sorted(since_start.items(), key=lambda part: part[1])
    starts = [0.0, *(end for _, end in parts)]
    return ", ".join(
        f"{part} {end - start:.1f} s" for (part, end), start in zip(parts, starts, strict=False)
    )
