"""Run the tests marked `gpu`, then measure speed at the 3B sizes: `make gpu`, in six minutes.

    python -m tests.benchmarks.gpu [TOPIC ...] [--device cuda|cpu] [--again] [--results FILE]

Each topic runs in a process of its own with a limit of time, the most valuable first. After each
topic the results file has a line of JSON more: an interruption loses only the topic that ran. A
topic that has ended well is not repeated without `--again`. On a CPU the same code runs at tiny
sizes, as a rehearsal; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lit_hour.io.atomic import atomic_path
from tests.benchmarks.gpu.topics import TOPICS, Topic
from tests.benchmarks.speed.harness.machine import current_commit, current_time, describe_machine
from tests.benchmarks.speed.harness.outcome import Outcome
from tests.benchmarks.speed.harness.report import (
    HEADINGS,
    outcome_record,
    read_outcome,
    row_cells,
    table_row,
)
from tests.benchmarks.speed.harness.run import receive, send_traceback

FOLDER = Path("runs/gpu")
CPU_PATIENCE = 5  # times as long in a rehearsal, which may run beside other work


@dataclass(frozen=True)
class Result:
    """A topic that has run: a line of the results file.

    Attributes:
        topic: a key of `TOPICS`.
        device: the name of the GPU, or "cpu".
        failure: why it did not end well; empty otherwise.
        outcomes: records of the rows that it has measured.
    """

    topic: str
    device: str
    commit: str
    date: str
    seconds: float
    failure: str
    outcomes: list[dict[str, Any]]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"of {', '.join(TOPICS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--again", action="store_true", help="also topics that have ended well")
    parser.add_argument("--results", type=Path, help="by default runs/gpu/DEVICE.jsonl")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.topics) - set(TOPICS)):
        parser.error(f"unknown topic {', '.join(unknown)}; topics: {', '.join(TOPICS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here; --device cpu (make gpu DEVICE=cpu) rehearses")
    return args


def main(argv: Sequence[str]) -> int:
    """Run the topics; return the exit status: 1 if one of them failed."""
    args = parse(argv)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the topics see no GPU that is there
    file = args.results or FOLDER / f"{args.device}.jsonl"
    machine = describe_machine()
    device = str(machine["gpu"]) if args.device == "cuda" else "cpu"
    results = {} if args.again and not args.topics else read_results(file, device)
    chosen = [name for name in TOPICS if name in args.topics or not args.topics]
    for name in chosen:
        if not args.again and name in results and not results[name].failure:
            print(f"--- {name}: there already, of {results[name].date}; --again repeats it")
            continue
        topic = TOPICS[name]
        if args.device == "cpu":
            topic = replace(topic, limit_seconds=CPU_PATIENCE * topic.limit_seconds)
        print(f"--- {name}: {topic.title}, {topic.limit_seconds:.0f} s at most", flush=True)
        results[name] = run_topic(name, topic, args.device, device)
        write_results(file, results)
        result = results[name]
        print(f"    {result.seconds:.0f} s. {result.failure}".rstrip(), flush=True)
    print_table([results[name] for name in chosen])
    print(f"\nwritten to {file}")
    return int(any(results[name].failure for name in chosen))


def run_topic(name: str, topic: Topic, device: str, device_name: str) -> Result:
    """Run a topic in a new process until it ends or its time is over."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure_and_send, args=(name, device, sender))
    started = time.perf_counter()
    process.start()
    sender.close()  # the pipe then ends with the process
    outcomes: list[dict[str, Any]] = []
    failure, message = "", None
    while True:
        remaining = topic.limit_seconds - (time.perf_counter() - started)
        if not receiver.poll(max(0.0, remaining)):
            failure = f"stopped after {topic.limit_seconds:.0f} s"
            process.kill()
            break
        if (message := receive(receiver)) is None:
            break
        if isinstance(message, Outcome):
            outcomes.append(outcome_record(message))
        else:
            failure = message
    process.join()
    if process.exitcode and not failure:
        failure = f"exit status {process.exitcode}"
    seconds = time.perf_counter() - started
    return Result(name, device_name, current_commit(), current_time(), seconds, failure, outcomes)


def measure_and_send(name: str, device: str, connection: Connection) -> None:
    """Measure a topic in this process, and send its outcomes or its traceback."""
    with send_traceback(connection):
        for outcome in TOPICS[name].measure(torch.device(device)):
            connection.send(outcome)


def read_results(file: Path, device: str) -> dict[str, Result]:
    """Read the results of earlier starts on the same kind of device."""
    if not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    try:
        results = [Result(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        print(f"{file} is damaged ({error}). All topics are run again.")
        return {}
    return {result.topic: result for result in results if result.device == device}


def write_results(file: Path, results: dict[str, Result]) -> None:
    """Write all results, a line each; the file is complete at any time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(result)) for result in results.values()]
    with atomic_path(file) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")


def print_table(results: Sequence[Result]) -> None:
    """Print a Markdown table of all rows, and what failed."""
    print(f"\n{table_row(list(HEADINGS))}\n{table_row(['---'] * len(HEADINGS))}")
    for result in results:
        for record in result.outcomes:
            print(table_row(row_cells(read_outcome(record))))
    for result in results:
        if result.failure:
            print(f"\n{result.topic} failed: {result.failure}")
