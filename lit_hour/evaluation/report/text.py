"""Summaries of a report and of a comparison for the terminal."""

from __future__ import annotations

from pathlib import Path

from lit_hour.evaluation.report.compare import compare
from lit_hour.evaluation.report.html import render_comparison
from lit_hour.evaluation.report.report import Report, read_report
from lit_hour.evaluation.report.result import Score, percent
from lit_hour.io.atomic import atomic_write_text

MAX_GROUPS = 12  # a grouping with more of them is in the HTML page only
REPORT_NAME = "report.json"


def summarize(report: Report, folder: Path) -> str:
    """Return the score, its groups, what is not in it, and the paths of the report."""
    lines = [report.summary()]
    for grouping, scores in report.groups.items():
        if len(scores) <= MAX_GROUPS:
            values = (f"{value} {_accuracy(score)}" for value, score in scores.items())
            lines.append(f"  by {grouping}: {', '.join(values)}")
    counts = {
        "unmatched responses, counted as wrong": report.score.num_unmatched,
        "questions skipped": len(report.skipped),
        "records that cannot be used": len(report.invalid_records),
        "responses not judged, in no score": len(report.needs_judge),
        "questions about videos that the run was trained on": report.num_seen,
        "sources of training data that could not be compared with the videos": len(
            report.not_compared
        ),
    }
    lines += [f"  {count} {what}" for what, count in counts.items() if count]
    lines.append(f"report: {folder / 'report.html'}, with all responses in {folder / REPORT_NAME}")
    return "\n".join(lines)


def compare_reports(first: Path, second: Path, page: Path) -> str:
    """Compare two reports, write the comparison as an HTML page, and return its summary.

    Args:
        first: a report, or the folder with it.
        second: a report, or the folder with it.
        page: the HTML file to write.

    Raises:
        ReportError: a report cannot be read, or the reports do not have the same questions.
    """
    files = [path / REPORT_NAME if path.is_dir() else path for path in (first, second)]
    comparison = compare(*map(read_report, files))
    atomic_write_text(page, render_comparison(comparison, *_short_names(first, second)))
    changed = ", ".join(comparison.protocol_differences) or "none"
    return "\n".join(
        [
            f"{comparison.title}, on the {comparison.num_shared} questions that both answered:",
            f"  {first}: {_percent(comparison.first_accuracy)}",
            f"  {second}: {_percent(comparison.second_accuracy)}",
            f"  difference {comparison.difference_in_points} points"
            f" (95%: {comparison.interval_in_points}), p = {comparison.p_value:.3g}",
            *(f"  {name}: difference {metric.text}" for name, metric in comparison.metrics.items()),
            f"  differences of the protocols: {changed}",
            f"comparison: {page}",
        ]
    )


def _short_names(first: Path, second: Path) -> tuple[str, str]:
    """Return two paths without the folders that they share at the beginning."""
    one, other = first.resolve().parts, second.resolve().parts
    num_shared = next(
        (index for index, names in enumerate(zip(one, other, strict=False)) if len(set(names)) > 1),
        0,
    )
    return str(Path(*one[num_shared:])), str(Path(*other[num_shared:]))


def _accuracy(score: Score) -> str:
    return _percent(score.accuracy)


def _percent(accuracy: float | None) -> str:
    return "not evaluated" if accuracy is None else f"{percent(accuracy)}%"
