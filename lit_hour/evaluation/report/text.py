"""A report, or two, in; what the terminal says of them out."""

from __future__ import annotations

from pathlib import Path

from lit_hour.evaluation.report.compare import compare
from lit_hour.evaluation.report.html import render_comparison
from lit_hour.evaluation.report.report import Report, Score, percent, read_report
from lit_hour.io.atomic import write_whole

MAX_GROUPS = 12  # of a grouping that is printed; the page has them all
REPORT_NAME = "report.json"


def summarize(report: Report, folder: Path) -> str:
    """The score, its groups, what was left out, and where the report lies."""
    lines = [report.summary()]
    for grouping, scores in report.groups.items():
        if len(scores) <= MAX_GROUPS:
            lines.append(
                f"  by {grouping}: "
                + ", ".join(f"{value} {_share(score)}" for value, score in scores.items())
            )
    counts = {
        "answers that no rule understands, counted as wrong": report.score.num_unmatched,
        "questions that were not asked": len(report.skipped),
        "records that could not be used": len(report.invalid_records),
        "answers that need a judge, in no score": len(report.needs_judge),
    }
    lines += [f"  {number} {what}" for what, number in counts.items() if number]
    return "\n".join(
        [*lines, f"report: {folder / 'report.html'}, and all answers in {folder / REPORT_NAME}"]
    )


def compare_reports(first: Path, second: Path, page: Path) -> str:
    """Compare two reports, each a file or the folder that holds it, write the page, and say what came out.

    Raises:
        ReportError: a report cannot be read, or they are not of the same questions.
    """
    files = [path / REPORT_NAME if path.is_dir() else path for path in (first, second)]
    comparison = compare(*map(read_report, files))
    write_whole(page, render_comparison(comparison, *_short_names(first, second)))
    low_high = (
        " to ".join(f"{100 * end:+.1f}" for end in comparison.interval)
        if comparison.interval
        else "unknown"
    )
    return "\n".join(
        [
            f"{comparison.title}, on the {comparison.num_shared} questions that both were asked:",
            f"  {first}: {percent(comparison.first_accuracy)}%",
            f"  {second}: {percent(comparison.second_accuracy)}%",
            f"  difference {100 * comparison.difference:+.1f} points (95%: {low_high}), p = {comparison.p_value:.3g}",
            f"  differences of the protocols: {', '.join(comparison.protocol_differences) or 'none'}",
            f"who is right alone, and all else: {page}",
        ]
    )


def _short_names(first: Path, second: Path) -> tuple[str, str]:
    """What tells two paths apart."""
    folders = [path.resolve().parts for path in (first, second)]
    num_shared = next(
        (place for place, (one, other) in enumerate(zip(*folders, strict=False)) if one != other), 0
    )
    one, other = (str(Path(*parts[num_shared:])) for parts in folders)
    return one, other


def _share(score: Score) -> str:
    return "not asked" if score.accuracy is None else f"{percent(score.accuracy)}%"
