"""Self-contained HTML pages of a report and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lit_hour.config.diff import flatten
from lit_hour.evaluation.report.compare import Comparison, Pair
from lit_hour.evaluation.report.report import Report
from lit_hour.evaluation.report.result import Result, percent
from lit_hour.io.html import html_options, html_page, html_table, image_data_uri
from lit_hour.types import Thumbnail

MAX_SHOWN = 200  # rows of a list; the JSON file has all of them
MAX_REASONS_SHOWN = 50
MAX_CHARACTERS_SHOWN = 600  # of a response

STYLE = """
summary { font-weight: 600; font-size: 21px; cursor: pointer } details { margin-top: 2em }
td, th { white-space: pre-line } .score { font-size: 26px; margin: .2em 0 }
.warning { background: #fff3d6; padding: .5em .8em }
.bar { background: #e6e6e6; height: 10px; width: 160px; margin-top: .45em }
.bar div { background: #3b6fb6; height: 10px } img { height: 90px }
"""


def render_report(report: Report, frames: Mapping[str, Sequence[Thumbnail]] | None = None) -> str:
    """Return the page of one report.

    Args:
        report: of one model.
        frames: question id -> frames of its video, shown beside a wrong response.
    """
    score, summary = report.score, report.summary().removeprefix(f"{report.full_title}: ")
    counts = {
        "questions in the files": score.num_questions,
        "evaluated": score.num_evaluated,
        "answered": score.num_answered,
        "unmatched: no rule understands the response, counted as wrong": score.num_unmatched,
        "correct": score.num_correct,
        "skipped": len(report.skipped),
        "records that cannot be used": len(report.invalid_records),
        "responses not judged, in no score": len(report.needs_judge),
    }
    rows = [[escape(name), str(count)] for name, count in counts.items()]
    return html_page(
        report.full_title,
        [
            f'<p class="score">{escape(summary)}</p>',
            *_warnings(report),
            html_table(rows, ["", "number"], num_text_columns=1),
            *_metric_table(report),
            *(_group_table(grouping, report) for grouping in report.groups),
            *_protocol_table(report),
            *_reason_table("Skipped questions", report.skipped),
            *_reason_table("Records that cannot be used", report.invalid_records),
            *_not_judged(report),
            *_wrong_responses(report, frames or {}),
        ],
        STYLE,
    )


def render_comparison(comparison: Comparison, first_name: str, second_name: str) -> str:
    """Return the page of two reports side by side."""
    names = (escape(first_name), escape(second_name))
    pairs = (comparison.only_first_correct, comparison.only_second_correct)
    accuracies = (comparison.first_accuracy, comparison.second_accuracy)
    rows = [
        [name, "" if accuracy is None else percent(accuracy), str(len(alone))]
        for name, accuracy, alone in zip(names, accuracies, pairs, strict=True)
    ]
    num_first, num_second = len(comparison.only_in_first), len(comparison.only_in_second)
    parts = [
        f'<p class="score">{comparison.difference_in_points} points'
        f" ({comparison.interval_in_points}), p = {comparison.p_value:.3g}</p>",
        f"<p>On the {comparison.num_shared} questions that both answered; {num_first} were answered"
        f" only by the first and {num_second} only by the second. In brackets: 95% interval of a"
        " paired bootstrap over videos. p: McNemar's exact test.</p>",
        html_table(rows, ["", "correct, %", "correct alone"], num_text_columns=1),
    ]
    if comparison.metrics:
        rows = [[escape(name), metric.text] for name, metric in comparison.metrics.items()]
        header = ["as published", "difference of the first to the second (95%)"]
        parts.append(html_table(rows, header))
    for grouping, groups in comparison.groups.items():
        rows = [
            [escape(value), str(count), percent(one), percent(other)]
            for value, (count, one, other) in groups.items()
        ]
        header = [escape(grouping), "questions", *(f"{name}, %" for name in names)]
        parts += [f"<h2>By {escape(grouping)}</h2>", html_table(rows, header, num_text_columns=1)]
    if comparison.protocol_differences:
        rows = [
            [escape(key), *map(_shortened, values)]
            for key, values in comparison.protocol_differences.items()
        ]
        parts += ["<h2>Differences of the protocols</h2>", html_table(rows, ["", *names])]
    for name, alone in zip(names, pairs, strict=True):
        parts += _pair_table(f"Only {name} is correct", names, alone)
    return html_page(f"{comparison.title}: {first_name} and {second_name}", parts, STYLE)


def _pair_table(title: str, names: tuple[str, str], pairs: Sequence[Pair]) -> list[str]:
    """Build a list of questions with the responses of both models."""
    rows = [
        [_question(one), _shortened(one.response), _shortened(other.response)]
        for one, other in pairs[:MAX_SHOWN]
    ]
    count = _count_shown(len(pairs), MAX_SHOWN)
    return [f"<h2>{title}</h2>", count, html_table(rows, ["question", *names])]


def _warnings(report: Report) -> list[str]:
    """Build a warning for each reason why the score is not on the whole benchmark."""
    score, warnings = report.score, []
    if score.num_evaluated < score.num_questions:
        num_missing = score.num_questions - score.num_evaluated
        warnings.append(
            f"{num_missing} of the {score.num_questions} questions were not evaluated: this is a"
            " score on a part of them."
        )
    num_in_files = len(report.results) + len(report.skipped) + len(report.invalid_records)
    if report.num_published is not None and num_in_files != report.num_published:
        warnings.append(
            f"The files hold {num_in_files} questions; the whole benchmark has"
            f" {report.num_published}."
        )
    if report.num_seen:
        warnings.append(
            f"{report.num_seen} of these questions are about videos that the run was trained on;"
            " the score of the others is below."
        )
    if report.not_compared:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.not_compared.items())
        warnings.append(f"Not compared with the training data: {reasons}.")
    return [f'<p class="warning">{escape(warning)}</p>' for warning in warnings]


def _metric_table(report: Report) -> list[str]:
    """Build the published scores; nothing if there is none."""
    if not report.metrics:
        return []
    rows = [
        [
            escape(name),
            escape(metric.text),
            escape(", ".join(metric.tasks)),
            str(metric.num_questions),
        ]
        for name, metric in report.metrics.items()
    ]
    header = ["", "score (95%)", "unweighted mean over", "questions"]
    return ["<h2>As published</h2>", html_table(rows, header, num_text_columns=3)]


def _not_judged(report: Report) -> list[str]:
    """Build a list of the responses that a judge has to score, and none has; nothing without."""
    if not report.needs_judge:
        return []
    shown = report.needs_judge[:MAX_SHOWN]
    rows = [[_question(result), _shortened(result.response)] for result in shown]
    count = _count_shown(len(report.needs_judge), MAX_SHOWN)
    return ["<h2>Not judged</h2>", count, html_table(rows, ["question", "response"])]


def _group_table(grouping: str, report: Report) -> str:
    rows = []
    for value, score in report.groups[grouping].items():
        interval = " to ".join(map(percent, score.interval)) if score.interval else ""
        bar = f'<div class="bar"><div style="width:{percent(score.accuracy or 0)}%"></div></div>'
        accuracy = "" if score.accuracy is None else percent(score.accuracy)
        evaluated = f"{score.num_evaluated} of {score.num_questions}"
        rows.append([escape(value), bar, accuracy, interval, evaluated, str(score.num_unmatched)])
    mean = report.group_means.get(grouping)
    mean_line = "" if mean is None else f"<p>Mean of the groups: {percent(mean)}%</p>"
    header = [escape(grouping), "", "correct, %", "95%", "evaluated", "unmatched"]
    table = html_table(rows, header, num_text_columns=2)
    return f"<h2>By {escape(grouping)}</h2>{table}{mean_line}"


def _protocol_table(report: Report) -> list[str]:
    rows = [
        [escape(key), _shortened(value)] for key, value in flatten(report.full_protocol).items()
    ]
    title = "Protocol: how the model was evaluated"
    return [f"<details><summary>{title}</summary>", html_table(rows), "</details>"]


def _reason_table(title: str, reasons: Mapping[str, str]) -> list[str]:
    """Build a list of names with reasons; nothing if there is none."""
    if not reasons:
        return []
    shown = list(reasons.items())[:MAX_REASONS_SHOWN]
    rows = [[escape(name), escape(reason)] for name, reason in shown]
    count = _count_shown(len(reasons), MAX_REASONS_SHOWN)
    return [f"<h2>{title}</h2>", count, html_table(rows, ["", "reason"])]


def _wrong_responses(report: Report, frames: Mapping[str, Sequence[Thumbnail]]) -> list[str]:
    """Build the list of wrong responses, unmatched ones first."""
    rows = []
    for result in sorted(report.wrong, key=lambda result: result.chosen is not None)[:MAX_SHOWN]:
        figures = "".join(map(_figure, frames.get(result.id, ())))
        chosen = "nothing" if result.chosen is None else escape(result.chosen)
        response = f'{_shortened(result.response)}<br><span class="small">chosen: {chosen}</span>'
        rows.append([f"{_question(result)}<div>{figures}</div>", response])
    count = _count_shown(len(report.wrong), MAX_SHOWN)
    return ["<h2>Wrong responses</h2>", count, html_table(rows, ["question", "response"])]


def _question(result: Result) -> str:
    """Build a question with its options, the true one marked."""
    options = [(label, text, label == result.answer) for label, text in result.options.items()]
    answer = f'<span class="correct">{escape(result.answer)}</span>'
    source = f'<span class="small">{escape(result.id)}, {escape(result.video)}</span>'
    lines = [escape(result.question), html_options(options) if options else answer, source]
    return "<br>".join(lines)


def _figure(frame: Thumbnail) -> str:
    seconds, jpeg = frame
    source = image_data_uri(jpeg, "image/jpeg")
    return f'<figure><img alt="" src="{source}">{seconds:.0f} s</figure>'


def _count_shown(count: int, limit: int) -> str:
    return f"<p>{count} in all{f'; the first {limit} are shown' if count > limit else ''}.</p>"


def _shortened(value: Any) -> str:
    text = str(value)
    ellipsis = " ..." if len(text) > MAX_CHARACTERS_SHOWN else ""
    return escape(text[:MAX_CHARACTERS_SHOWN] + ellipsis)
