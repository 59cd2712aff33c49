"""Measure topics, each in a new process, and write the table, the plot and the JSON file.

A topic is a module or package beside this folder with a function `measure`, which yields outcomes.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from tests.benchmarks.speed.harness.machine import current_commit, current_time, describe_machine
from tests.benchmarks.speed.harness.outcome import Outcome
from tests.benchmarks.speed.harness.peers import add_peers_to_path
from tests.benchmarks.speed.harness.plot import plot_outcomes
from tests.benchmarks.speed.harness.report import Failure, Report, Section, read_sections
from tests.benchmarks.speed.harness.topics import TARGETS, TOPICS

FOLDER = Path("runs/benchmark")
RESULTS = Path(__file__).parents[2] / "RESULTS.md"
TOPICS_PACKAGE = "tests.benchmarks.speed"


def main(names: list[str]) -> int:
    """Measure the named topics, or all, and report them with earlier results.

    Returns:
        The exit status: 0, 1 if a topic failed, 2 for an unknown topic.
    """
    if unknown := sorted(set(names) - set(TOPICS)):
        message = f"Unknown topic: {', '.join(unknown)}. Topics: {', '.join(TOPICS)}."
        print(f"error: {message}", file=sys.stderr)
        return 2
    chosen = [topic for topic in TOPICS if topic in names or not names]
    machine = describe_machine()
    sections = {section.topic: section for section in read_sections(FOLDER / "speed.json", machine)}
    for topic in chosen:
        results = list(measure_topic(topic))
        sections[topic] = Section(topic, current_commit(), current_time(), results)
        report = Report(machine, [sections[topic] for topic in TOPICS if topic in sections])
        write(report)  # after each topic, so that an interruption loses only one
    print(
        f"\n{report.as_text()}\n\nwritten to {RESULTS}, {FOLDER}/speed.json and {FOLDER}/speed.png"
    )
    results = [result for topic in chosen for result in sections[topic].results]
    return int(any(isinstance(result, Failure) for result in results))


def write(report: Report) -> None:
    """Write the table, the JSON file and the plot."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    report.write_json(FOLDER / "speed.json")
    RESULTS.write_text(report.as_markdown(), encoding="utf-8")
    plot_outcomes(report.outcomes, FOLDER / "speed.png")


def measure_topic(topic: str) -> Iterator[Outcome | Failure]:
    """Yield the outcomes of a topic as its process sends them, and a failure if it ends in one."""
    print(f"\n--- {topic}: {TARGETS[TOPICS[topic]]}", flush=True)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure_and_send, args=(f"{TOPICS_PACKAGE}.{topic}", sender))
    process.start()
    sender.close()  # the pipe then ends with the process
    failure = ""
    while (message := receive(receiver)) is not None:
        if isinstance(message, Outcome):
            yield message
        else:
            failure = message
    process.join()
    if process.exitcode and not failure:
        failure = f"the process ended with exit status {process.exitcode}"
    if failure:
        yield Failure(topic, TOPICS[topic], failure)


def receive(connection: Connection) -> Outcome | str | None:
    """Return the next message, or None at the end of the pipe."""
    try:
        message: Outcome | str = connection.recv()
    except EOFError:
        return None
    return message


def measure_and_send(module: str, connection: Connection) -> None:
    """Measure a topic in this process, and send its outcomes or its traceback."""
    add_peers_to_path()
    with send_traceback(connection):
        for outcome in importlib.import_module(module).measure():
            connection.send(outcome)


@contextmanager
def send_traceback(connection: Connection) -> Iterator[None]:
    """Send the traceback of an exception as text, and raise it again."""
    try:
        yield
    except BaseException as error:
        connection.send("".join(traceback.format_exception(error)))
        raise
