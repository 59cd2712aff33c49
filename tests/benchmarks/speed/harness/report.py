"""Outcomes in; a table for the terminal, one for the README, and JSON out.

A later run takes from the JSON what it does not measure itself.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.benchmarks.speed.harness.topics import TARGETS, TOPICS

HEADINGS = ("what", "ours", "peer", "ratio", "limit", "goal", "verdict")
NO_FIGURE = "–"
WIDTH_OF_REASONS = 120


@dataclass(frozen=True)
class Failure:
    """A topic that ended in an error."""

    topic: str
    target: int
    error: str


@dataclass(frozen=True)
class Section:
    """What was found of a topic, and of which commit and when."""

    topic: str
    commit: str
    date: str
    results: list[Outcome | Failure]


@dataclass(frozen=True)
class Report:
    """All that is known of a machine.

    Attributes:
        machine: see `describe_machine`.
        sections: in the order of `TOPICS`.
    """

    machine: dict[str, Any]
    sections: list[Section]

    @property
    def results(self) -> list[Outcome | Failure]:
        """Of all topics."""
        return [result for section in self.sections for result in section.results]

    @property
    def not_run(self) -> list[str]:
        """Topics of which nothing is known."""
        return [
            topic for topic in TOPICS if topic not in {section.topic for section in self.sections}
        ]

    @property
    def outcomes(self) -> list[Outcome]:
        """What was measured or skipped."""
        return [result for result in self.results if isinstance(result, Outcome)]

    @property
    def failures(self) -> list[Failure]:
        """What ended in an error."""
        return [result for result in self.results if isinstance(result, Failure)]

    def as_text(self) -> str:
        """The table for a terminal, with the reasons under the lines that they are about."""
        rows = {id(result): cells(result) for result in self.results}
        widths = [max(map(len, column)) for column in zip(HEADINGS, *rows.values(), strict=True)]
        lines = ["   " + aligned(HEADINGS, widths)]
        for target, title in TARGETS.items():
            results = [result for result in self.results if result.target == target]
            lines += [f"{target}  {title}"] if results else []
            for result in results:
                lines.append("   " + aligned(rows[id(result)], widths))
                lines += textwrap.wrap(
                    reason(result),
                    WIDTH_OF_REASONS,
                    initial_indent=" " * 6,
                    subsequent_indent=" " * 6,
                )
        return "\n".join(
            [
                *lines,
                "",
                self._origin(),
                self._not_run(),
                *(f"\n{failure.topic}:\n{failure.error}" for failure in self.failures),
            ]
        )

    def as_markdown(self) -> str:
        """The same table for the README, with the reasons below it."""
        headings = ("target", *HEADINGS)
        lines = [self._machine(), "", row(headings), row(["---"] * len(headings))]
        lines += [row((str(result.target), *cells(result))) for result in self.results]
        return (
            "\n".join([*lines, "", *self._reasons(), "", self._origin(), self._not_run()]).rstrip()
            + "\n"
        )

    def write_json(self, path: Path) -> None:
        """Everything."""
        topics = [
            {
                "topic": section.topic,
                "commit": section.commit,
                "date": section.date,
                "outcomes": [judged(each) for each in section.results if isinstance(each, Outcome)],
                "failed": [asdict(each) for each in section.results if isinstance(each, Failure)],
            }
            for section in self.sections
        ]
        everything = {
            "machine": self.machine,
            "targets": TARGETS,
            "topics": topics,
            "not_run": self.not_run,
        }
        path.write_text(
            json.dumps(everything, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def _machine(self) -> str:
        machine = self.machine
        memory = f"{machine['memory_gb']:.0f} GB"
        place = ", ".join(
            filter(
                None,
                [machine["cpu"], f"{machine['cores']} cores", memory, machine["gpu"] or "no GPU"],
            )
        )
        versions = ", ".join(
            f"{name} {number}"
            for name, number in {**machine["versions"], **machine["peers"]}.items()
            if number
        )
        return f"{place}; Python {machine['python']}, {versions}"

    def _reasons(self) -> list[str]:
        """A line for each reason, with the results that it is given for."""
        given: dict[str, list[str]] = {}
        for result in self.results:
            if text := reason(result):
                beginning, _, rest = text.partition(": ")
                given.setdefault(rest, []).append(f"{result.target}, {named(result)}: {beginning}")
        return [
            f"- {'; '.join(whose)}. {text[:1].upper()}{text[1:]}" for text, whose in given.items()
        ]

    def _origin(self) -> str:
        commits: dict[tuple[str, str], list[str]] = {}
        for section in self.sections:
            commits.setdefault((section.commit, section.date[:10]), []).append(section.topic)
        return "; ".join(
            f"commit {commit}, {date}: {', '.join(topics)}"
            for (commit, date), topics in commits.items()
        )

    def _not_run(self) -> str:
        topics = ", ".join(f"{topic} (target {TOPICS[topic]})" for topic in self.not_run)
        return f"Not run: {topics}." if topics else ""


def read_sections(path: Path, machine: dict[str, Any]) -> list[Section]:
    """What an earlier run has left of the same machine with the same versions; nothing if it left nothing."""
    if not path.exists():
        return []
    everything = json.loads(path.read_text(encoding="utf-8"))
    same = all(
        everything["machine"][name] == machine[name]
        for name in ("cpu", "cores", "gpu", "python", "versions", "peers")
    )
    return [read_section(stored) for stored in everything["topics"]] if same else []


def read_section(stored: dict[str, Any]) -> Section:
    """As `Report.write_json` has written it."""
    results: list[Outcome | Failure] = [Failure(**each) for each in stored["failed"]]
    for each in stored["outcomes"]:
        given = {field.name: each[field.name] for field in fields(Outcome)}
        given["goal"] = given["goal"] and Goal(**given["goal"])
        given["curve"] = {float(place): value for place, value in given["curve"].items()}
        results.append(Outcome(**given))
    return Section(stored["topic"], stored["commit"], stored["date"], results)


def judged(outcome: Outcome) -> dict[str, Any]:
    """All of an outcome, and what follows from it."""
    return {
        **asdict(outcome),
        "ratio": outcome.ratio,
        "verdict": outcome.verdict,
        "missed_by": outcome.missed_by,
    }


def cells(result: Outcome | Failure) -> tuple[str, ...]:
    """A line of the table, in the order of `HEADINGS`."""
    if isinstance(result, Failure):
        return (result.topic, *[NO_FIGURE] * (len(HEADINGS) - 2), "failed")
    return (
        result.what,
        figure(result.ours, result.unit),
        figure(result.peer, result.unit, result.peer_name),
        figure(result.ratio),
        figure(result.limit, result.unit, result.limit_name),
        str(result.goal) if result.goal else NO_FIGURE,
        result.verdict,
    )


def named(result: Outcome | Failure) -> str:
    """What was measured, and against whom."""
    if isinstance(result, Failure):
        return result.topic
    return f"{result.what}, {result.peer_name}" if result.peer_name else result.what


def reason(result: Outcome | Failure) -> str:
    """By how much and why a goal was missed, what a skipped line would need, and what went wrong; else nothing."""
    if isinstance(result, Failure):
        return result.error.strip().splitlines()[-1]
    match result.verdict:
        case "missed":
            return f"missed by {max(1, round(100 * result.missed_by))}%: {result.why}"
        case "skipped":
            return f"skipped: {result.why}"
        case _:
            return ""


def figure(value: float | None, unit: str = "", name: str = "") -> str:
    """Three digits that count: "1,234 MB", "12.3 s decord", "0.0123"."""
    if value is None:
        return NO_FIGURE
    size = abs(value)
    digits = (
        f"{value:,.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 0.1
        else f"{value:.3g}"
    )
    return " ".join(filter(None, [digits, unit, name]))


def aligned(texts: tuple[str, ...], widths: list[int]) -> str:
    """Columns with two spaces between."""
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def row(texts: tuple[str, ...] | list[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
