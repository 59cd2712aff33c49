"""Outcomes in; a table for the terminal, one for the README, and JSON out."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.speed.harness.outcome import Outcome
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
class Report:
    """All that a run of the harness has found.

    Attributes:
        machine: see `describe_machine`.
        results: in the order of measuring.
        not_run: topics that were not asked for.
    """

    machine: dict[str, Any]
    results: list[Outcome | Failure]
    not_run: list[str] = field(default_factory=list)

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
                lines += textwrap.wrap(reason(result), WIDTH_OF_REASONS, initial_indent=" " * 6, subsequent_indent=" " * 6)
        return "\n".join([*lines, self._not_run(), *(f"\n{failure.topic}:\n{failure.error}" for failure in self.failures)])

    def as_markdown(self) -> str:
        """The same table for the README, with the reasons below it."""
        headings = ("target", *HEADINGS)
        lines = [self._machine(), "", row(headings), row(["---"] * len(headings))]
        lines += [row((str(result.target), *cells(result))) for result in self.results]
        reasons = [f"- {result.target}, {cells(result)[0]}: {reason(result)}" for result in self.results if reason(result)]
        return "\n".join([*lines, "", *reasons, self._not_run()]).rstrip() + "\n"

    def write_json(self, path: Path) -> None:
        """Everything."""
        judged = [
            {**asdict(each), "ratio": each.ratio, "verdict": each.verdict, "missed_by": each.missed_by}
            for each in self.outcomes
        ]
        everything = {
            "machine": self.machine,
            "targets": TARGETS,
            "outcomes": judged,
            "failed": [asdict(failure) for failure in self.failures],
            "not_run": self.not_run,
        }
        path.write_text(json.dumps(everything, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _machine(self) -> str:
        machine = self.machine
        memory = f"{machine['memory_gb']:.0f} GB"
        place = ", ".join(filter(None, [machine["cpu"], f"{machine['cores']} cores", memory, machine["gpu"] or "no GPU"]))
        versions = ", ".join(
            f"{name} {number}" for name, number in {**machine["versions"], **machine["peers"]}.items() if number
        )
        return f"{place}; Python {machine['python']}, {versions}; commit {machine['commit']}, {machine['date']}"

    def _not_run(self) -> str:
        topics = ", ".join(f"{topic} (target {TOPICS[topic]})" for topic in self.not_run)
        return f"\nNot run this time: {topics}." if topics else ""


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


def reason(result: Outcome | Failure) -> str:
    """By how much and why a goal was missed, what a skipped line would need, and what went wrong; else nothing."""
    if isinstance(result, Failure):
        return result.error.strip().splitlines()[-1]
    match result.verdict:
        case "missed":
            return f"missed by {100 * result.missed_by:.2g}%: {result.why}"
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
        f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3g}"
    )
    return " ".join(filter(None, [digits, unit, name]))


def aligned(texts: tuple[str, ...], widths: list[int]) -> str:
    """Columns with two spaces between."""
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def row(texts: tuple[str, ...] | list[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
