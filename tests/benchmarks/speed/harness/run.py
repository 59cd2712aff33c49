"""Names of topics in; each measured in a new process; the table, its files and the exit status out.

A topic is a module, or a folder, beside this folder, with one function for us, `measure() -> Iterator[Outcome]`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from tests.benchmarks.speed.harness.machine import commit, describe_machine, now
from tests.benchmarks.speed.harness.outcome import Outcome
from tests.benchmarks.speed.harness.peers import add_peers
from tests.benchmarks.speed.harness.plot import draw
from tests.benchmarks.speed.harness.report import Failure, Report, Section, read_sections
from tests.benchmarks.speed.harness.topics import TARGETS, TOPICS

FOLDER = Path("runs/benchmark")
TOPICS_PACKAGE = "tests.benchmarks.speed"


def main(words: list[str]) -> int:
    """Measure the topics that the words name, or all; 1 when one of them failed. What was measured before is shown too."""
    if unknown := sorted(set(words) - set(TOPICS)):
        print(
            f"error: no topic {', '.join(unknown)}; there is: {', '.join(TOPICS)}", file=sys.stderr
        )
        return 2
    chosen = [topic for topic in TOPICS if topic in words or not words]
    machine = describe_machine()
    sections = {section.topic: section for section in read_sections(FOLDER / "speed.json", machine)}
    for topic in chosen:
        sections[topic] = Section(topic, commit(), now(), list(measure_topic(topic)))
        report = Report(machine, [sections[topic] for topic in TOPICS if topic in sections])
        write(report)  # after each topic: who stops it keeps what was found
    print(f"\n{report.as_text()}\n\nalso in {FOLDER}/speed.json, .md and .png")
    return (
        1
        if any(
            isinstance(result, Failure) for topic in chosen for result in sections[topic].results
        )
        else 0
    )


def write(report: Report) -> None:
    """All that is kept of a run."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    report.write_json(FOLDER / "speed.json")
    (FOLDER / "speed.md").write_text(report.as_markdown(), encoding="utf-8")
    draw(report.outcomes, FOLDER / "speed.png")


def measure_topic(topic: str) -> Iterator[Outcome | Failure]:
    """Each outcome of a topic as its process sends it, and a failure when that process ends in one."""
    print(f"\n--- {topic}: {TARGETS[TOPICS[topic]]}", flush=True)
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=measure_and_send, args=(f"{TOPICS_PACKAGE}.{topic}", sending))
    process.start()
    sending.close()  # so that the end of the process ends the pipe
    failure = ""
    while (message := receive(receiving)) is not None:
        if isinstance(message, Outcome):
            yield message
        else:
            failure = message
    process.join()
    if failure or process.exitcode:
        yield Failure(
            topic,
            TOPICS[topic],
            failure or f"its process ended with exit status {process.exitcode}",
        )


def receive(connection: Connection) -> Outcome | str | None:
    """What comes next, or None at the end."""
    try:
        message: Outcome | str = connection.recv()
    except EOFError:
        return None
    return message


def measure_and_send(module: str, connection: Connection) -> None:
    """Measure in this process, with the other projects within reach."""
    add_peers()
    with SendError(connection):
        for outcome in importlib.import_module(module).measure():
            connection.send(outcome)


@dataclass(frozen=True)
class SendError:
    """What is raised inside is sent as text, and goes on."""

    connection: Connection

    def __enter__(self) -> None:
        """Nothing has to be ready."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.connection.send("".join(traceback.format_exception(kind, error, trace)))
