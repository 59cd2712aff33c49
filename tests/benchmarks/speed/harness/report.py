"""Report of all outcomes: text for the terminal, Markdown for RESULTS.md, and JSON.

A later run reads from the JSON file what it does not measure itself.
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
REASON_WIDTH = 120
TITLE = """\
# Speed

`make benchmark` writes this file. It measures this project side by side with other projects, or
with the published arithmetic written plainly, and judges each target. The figures of a row are of
one run; the last line names the commit and date of each topic. [README.md](README.md) describes the
topics, and [LOG.md](LOG.md) what was tried.
"""


@dataclass(frozen=True)
class Failure:
    """A topic that ended in an error."""

    topic: str
    target: int
    error: str


@dataclass(frozen=True)
class Section:
    """The results of a topic, with the commit and the date of the run."""

    topic: str
    commit: str
    date: str
    results: list[Outcome | Failure]


@dataclass(frozen=True)
class Report:
    """All results of one machine.

    Attributes:
        machine: see `describe_machine`.
        sections: in the order of `TOPICS`.
    """

    machine: dict[str, Any]
    sections: list[Section]

    @property
    def results(self) -> list[Outcome | Failure]:
        """The results of all topics."""
        return [result for section in self.sections for result in section.results]

    @property
    def missing_topics(self) -> list[str]:
        """Topics that were never run."""
        known = {section.topic for section in self.sections}
        return [topic for topic in TOPICS if topic not in known]

    @property
    def outcomes(self) -> list[Outcome]:
        """The results that are not failures."""
        return [result for result in self.results if isinstance(result, Outcome)]

    @property
    def failures(self) -> list[Failure]:
        """The results that are failures."""
        return [result for result in self.results if isinstance(result, Failure)]

    def as_text(self) -> str:
        """Return the table for a terminal, with the reasons below their rows."""
        rows = {id(result): row_cells(result) for result in self.results}
        widths = [max(map(len, column)) for column in zip(HEADINGS, *rows.values(), strict=True)]
        lines = ["   " + align(HEADINGS, widths)]
        indent = " " * 6
        for target, title in TARGETS.items():
            results = [result for result in self.results if result.target == target]
            lines += [f"{target}  {title}"] if results else []
            for result in results:
                lines.append("   " + align(rows[id(result)], widths))
                lines += textwrap.wrap(
                    reason(result), REASON_WIDTH, initial_indent=indent, subsequent_indent=indent
                )
        lines += ["", self._provenance(), self._missing()]
        lines += [f"\n{failure.topic}:\n{failure.error}" for failure in self.failures]
        return "\n".join(lines)

    def as_markdown(self) -> str:
        """Return RESULTS.md: machine, table, reasons and provenance."""
        headings = ("target", *HEADINGS)
        lines = [
            TITLE,
            self._machine(),
            "",
            table_row(headings),
            table_row(["---"] * len(headings)),
        ]
        lines += [table_row((str(result.target), *row_cells(result))) for result in self.results]
        lines += ["", *self._reasons(), "", self._provenance(), self._missing()]
        return "\n".join(lines).rstrip() + "\n"

    def write_json(self, path: Path) -> None:
        """Write everything as JSON."""
        topics = [
            {
                "topic": section.topic,
                "commit": section.commit,
                "date": section.date,
                "outcomes": [
                    outcome_record(item) for item in section.results if isinstance(item, Outcome)
                ],
                "failed": [asdict(item) for item in section.results if isinstance(item, Failure)],
            }
            for section in self.sections
        ]
        content = {
            "machine": self.machine,
            "targets": TARGETS,
            "topics": topics,
            "not_run": self.missing_topics,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")

    def _machine(self) -> str:
        machine = self.machine
        memory, gpu = f"{machine['memory_gb']:.0f} GB", machine["gpu"] or "no GPU"
        parts = [machine["cpu"], f"{machine['cores']} cores", memory, gpu]
        versions = {**machine["versions"], **machine["peers"]}
        listed = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
        return f"{', '.join(filter(None, parts))}; Python {machine['python']}, {listed}"

    def _reasons(self) -> list[str]:
        """Return one line per reason, with the results that it applies to."""
        results_of_reason: dict[str, list[str]] = {}
        for result in self.results:
            if text := reason(result):
                verdict, _, rest = text.partition(": ")
                title = f"{result.target}, {full_name(result)}: {verdict}"
                results_of_reason.setdefault(rest, []).append(title)
        return [
            f"- {'; '.join(titles)}. {text[:1].upper()}{text[1:]}"
            for text, titles in results_of_reason.items()
        ]

    def _provenance(self) -> str:
        topics_of_run: dict[tuple[str, str], list[str]] = {}
        for section in self.sections:
            run = section.commit, section.date[:10]
            topics_of_run.setdefault(run, []).append(section.topic)
        return "; ".join(
            f"commit {commit}, {date}: {', '.join(topics)}"
            for (commit, date), topics in topics_of_run.items()
        )

    def _missing(self) -> str:
        topics = ", ".join(f"{topic} (target {TOPICS[topic]})" for topic in self.missing_topics)
        return f"Not run: {topics}." if topics else ""


def read_sections(path: Path, machine: dict[str, Any]) -> list[Section]:
    """Read the results of an earlier run on the same machine with the same versions, if any."""
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    names = ("cpu", "cores", "gpu", "python", "versions", "peers")
    if any(content["machine"][name] != machine[name] for name in names):
        return []
    return [read_section(record) for record in content["topics"]]


def read_section(record: dict[str, Any]) -> Section:
    """Read a section that `Report.write_json` has written."""
    results: list[Outcome | Failure] = [Failure(**failure) for failure in record["failed"]]
    results += [read_outcome(outcome) for outcome in record["outcomes"]]
    return Section(record["topic"], record["commit"], record["date"], results)


def read_outcome(record: dict[str, Any]) -> Outcome:
    """Read an outcome that `outcome_record` has returned."""
    values = {field.name: record[field.name] for field in fields(Outcome)}
    values["goal"] = values["goal"] and Goal(**values["goal"])
    values["curve"] = {float(minutes): value for minutes, value in values["curve"].items()}
    return Outcome(**values)


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of an outcome and its derived values."""
    return {
        **asdict(outcome),
        "ratio": outcome.ratio,
        "verdict": outcome.verdict,
        "missed_by": outcome.missed_by,
    }


def row_cells(result: Outcome | Failure) -> tuple[str, ...]:
    """Return the cells of a row, in the order of `HEADINGS`."""
    if isinstance(result, Failure):
        return (result.topic, *[NO_FIGURE] * (len(HEADINGS) - 2), "failed")
    return (
        result.what,
        format_figure(result.ours, result.unit),
        format_figure(result.peer, result.unit, result.peer_name),
        format_figure(result.ratio),
        format_figure(result.limit, result.unit, result.limit_name),
        str(result.goal) if result.goal else NO_FIGURE,
        result.verdict,
    )


def full_name(result: Outcome | Failure) -> str:
    """Return what was measured, with the name of the peer."""
    if isinstance(result, Failure):
        return result.topic
    return f"{result.what}, {result.peer_name}" if result.peer_name else result.what


def reason(result: Outcome | Failure) -> str:
    """Return why a goal is missed, a row skipped or a topic failed; empty otherwise."""
    if isinstance(result, Failure):
        return result.error.strip().splitlines()[-1]
    match result.verdict:
        case "missed":
            return f"missed by {max(1, round(100 * result.missed_by))}%: {result.why}"
        case "skipped":
            return f"skipped: {result.why}"
        case _:
            return ""


def format_figure(value: float | None, unit: str = "", name: str = "") -> str:
    """Return a figure with three significant digits: "1,234 MB", "12.3 s decord", "0.0123"."""
    if value is None:
        return NO_FIGURE
    size = abs(value)
    if size >= 100:
        digits = f"{value:,.0f}"
    elif size >= 10:
        digits = f"{value:.1f}"
    elif size >= 0.1:
        digits = f"{value:.2f}"
    else:
        digits = f"{value:.3g}"
    return " ".join(filter(None, [digits, unit, name]))


def align(texts: tuple[str, ...], widths: list[int]) -> str:
    """Return the texts in columns, separated by two spaces."""
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def table_row(texts: tuple[str, ...] | list[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
