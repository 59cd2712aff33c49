"""A report or a comparison in, one HTML page out that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from lit_hour.evaluation.report.compare import Comparison, flatten
from lit_hour.evaluation.report.report import Report, Result, percent
from lit_hour.types import Thumbnail

NUM_SHOWN = 200  # of each list; the JSON holds them all
NUM_SKIPPED_SHOWN = 50
NUM_CHARACTERS_SHOWN = 600  # of what a model said

STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 1040px; padding: 0 1em; color: #222; background: #fff }
h1, h2, summary { font-weight: 600 } h2, details { margin-top: 2em } summary { font-size: 21px; cursor: pointer }
.score { font-size: 26px; margin: .2em 0 }
table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid #ddd; padding: .4em .6em; text-align: left; vertical-align: top; white-space: pre-line }
td.number, th.number { text-align: right; white-space: nowrap } .right { font-weight: 600; color: #0a7a3d }
.small { color: #555; font-size: 13px } .warning { background: #fff3d6; padding: .5em .8em }
.bar { background: #e6e6e6; height: 10px; width: 160px; margin-top: .45em } .bar div { background: #3b6fb6; height: 10px }
figure { display: inline-block; margin: .3em .3em 0 0; font-size: 12px; color: #555 } img { display: block; height: 90px }
"""


def render_report(report: Report, pictures: Mapping[str, Sequence[Thumbnail]] | None = None) -> str:
    """The page of one report.

    Args:
        pictures: question id -> frames of its video, to look at beside a wrong answer.
    """
    score = report.score
    counts = [
        ("questions in the files", score.num_questions),
        ("asked", score.num_evaluated),
        ("answered", score.num_answered),
        ("unmatched: no rule understands the answer, counted as wrong", score.num_unmatched),
        ("right", score.num_correct),
        ("skipped", len(report.skipped)),
        ("records that could not be used", len(report.invalid_records)),
        ("answers that need a judge, in no score", len(report.needs_judge)),
    ]
    return _page(
        report.title,
        [
            f'<p class="score">{escape(report.summary().removeprefix(f"{report.title}: "))}</p>',
            *_warnings(report),
            _table(["", "number"], [[escape(name), str(number)] for name, number in counts]),
            *(_group_table(grouping, report) for grouping in report.groups),
            *_settings_table(
                "Protocol: how the model was asked",
                flatten(
                    {**report.protocol, "prompts": report.prompts, "question file": report.files}
                ),
            ),
            *_reasons("Skipped questions", report.skipped),
            *_reasons("Records that could not be used", report.invalid_records),
            *_wrong_answers(report, pictures or {}),
        ],
    )


def render_comparison(comparison: Comparison, first_name: str, second_name: str) -> str:
    """The page of two reports side by side."""
    names = (escape(first_name), escape(second_name))
    low_high = (
        " to ".join(f"{100 * end:+.1f}" for end in comparison.interval)
        if comparison.interval
        else "unknown"
    )
    verdicts = [
        [names[0], percent(comparison.first_accuracy), str(len(comparison.only_first_correct))],
        [names[1], percent(comparison.second_accuracy), str(len(comparison.only_second_correct))],
    ]
    alone = len(comparison.only_in_first), len(comparison.only_in_second)
    parts = [
        f'<p class="score">{100 * comparison.difference:+.1f} points ({low_high}), p = {comparison.p_value:.3g}</p>',
        f"<p>On the {comparison.num_shared} questions that both were asked; {alone[0]} were asked only of the first and"
        f" {alone[1]} only of the second. In brackets 95% of a paired bootstrap over videos; p is of McNemar's exact test.</p>",
        _table(["", "right, %", "right alone"], verdicts),
    ]
    for grouping, shares in comparison.groups.items():
        rows = [
            [escape(value), str(number), percent(one), percent(two)]
            for value, (number, one, two) in shares.items()
        ]
        parts += [
            f"<h2>By {escape(grouping)}</h2>",
            _table([escape(grouping), "questions", *(f"{n}, %" for n in names)], rows),
        ]
    differences = [
        [escape(key), *map(_say, values)] for key, values in comparison.protocol_differences.items()
    ]
    if differences:
        parts += [
            "<h2>Differences of the protocols</h2>",
            _table(["", *names], differences, num_words=3),
        ]
    for name, pairs in zip(
        names, (comparison.only_first_correct, comparison.only_second_correct), strict=True
    ):
        rows = [
            [_asked(one), _say(one.response), _say(two.response)] for one, two in pairs[:NUM_SHOWN]
        ]
        parts += [
            f"<h2>Only {name} is right</h2>",
            _shown(len(pairs)),
            _table(["question", *names], rows, num_words=3),
        ]
    return _page(f"{comparison.title}: {first_name} and {second_name}", parts)


def _page(title: str, parts: Iterable[str]) -> str:
    head = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    )
    return "\n".join(
        [
            head,
            f"<style>{STYLE}</style></head>",
            f"<body><h1>{escape(title)}</h1>",
            *parts,
            "</body></html>\n",
        ]
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], num_words: int = 1) -> str:
    """A table of cells that are HTML already; the columns behind the first ones are numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        classes = ["" if place < num_words else ' class="number"' for place in range(len(cells))]
        return "".join(
            f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(classes, cells, strict=True)
        )

    lines = [f"<tr>{row(heads, 'th')}</tr>", *(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)]
    return "<table>" + "\n".join(lines) + "</table>"


def _warnings(report: Report) -> list[str]:
    """What a reader has to know before taking the score for that of the benchmark."""
    score, warnings = report.score, []
    if score.num_evaluated < score.num_questions:
        missing = score.num_questions - score.num_evaluated
        warnings.append(
            f"{missing} of the {score.num_questions} questions were not asked: this is a score on a part of them."
        )
    num_in_files = len(report.results) + len(report.skipped) + len(report.invalid_records)
    if report.num_published is not None and num_in_files != report.num_published:
        warnings.append(
            f"The files hold {num_in_files} questions; the whole benchmark has {report.num_published}."
        )
    return [f'<p class="warning">{escape(warning)}</p>' for warning in warnings]


def _group_table(grouping: str, report: Report) -> str:
    rows = []
    for value, score in report.groups[grouping].items():
        low_high = " to ".join(map(percent, score.interval)) if score.interval else ""
        bar = f'<div class="bar"><div style="width:{percent(score.accuracy or 0)}%"></div></div>'
        share = "" if score.accuracy is None else percent(score.accuracy)
        asked = f"{score.num_evaluated} of {score.num_questions}"
        rows.append([escape(value), bar, share, low_high, asked, str(score.num_unmatched)])
    mean = (
        f"<p>Mean of the groups: {percent(report.group_means[grouping])}%</p>"
        if grouping in report.group_means
        else ""
    )
    heads = [escape(grouping), "", "right, %", "95%", "asked", "unmatched"]
    return f"<h2>By {escape(grouping)}</h2>{_table(heads, rows, num_words=2)}{mean}"


def _settings_table(title: str, settings: Mapping[str, Any]) -> list[str]:
    rows = [[escape(key), _say(value)] for key, value in settings.items()]
    return [
        f"<details><summary>{title}</summary>",
        _table(["", ""], rows, num_words=2),
        "</details>",
    ]


def _reasons(title: str, reasons: Mapping[str, str]) -> list[str]:
    """What was left out, and why; nothing where nothing was."""
    if not reasons:
        return []
    rows = [
        [escape(name), escape(reason)] for name, reason in list(reasons.items())[:NUM_SKIPPED_SHOWN]
    ]
    return [
        f"<h2>{title}</h2>",
        _shown(len(reasons), NUM_SKIPPED_SHOWN),
        _table(["", "reason"], rows, num_words=2),
    ]


def _wrong_answers(report: Report, pictures: Mapping[str, Sequence[Thumbnail]]) -> list[str]:
    """Those that no rule understood come first: a reader may find out why."""
    rows = []
    for result in sorted(report.wrong, key=lambda result: result.chosen is not None)[:NUM_SHOWN]:
        figures = "".join(map(_figure, pictures.get(result.id, ())))
        understood = escape(result.chosen) if result.chosen is not None else "nothing"
        said = f'{_say(result.response)}<br><span class="small">understood: {understood}</span>'
        rows.append([f"{_asked(result)}<div>{figures}</div>", said])
    return [
        "<h2>Wrong answers</h2>",
        _shown(len(report.wrong)),
        _table(["question", "said"], rows, num_words=2),
    ]


def _asked(result: Result) -> str:
    """A question with its options, the true one marked."""
    options = "".join(
        f'<br><span class="{"right" if label == result.answer else ""}">{escape(label)}: {escape(words)}</span>'
        for label, words in result.options.items()
    )
    truth = options or f'<br><span class="right">{escape(result.answer)}</span>'
    return f'{escape(result.question)}{truth}<br><span class="small">{escape(result.id)}, {escape(result.video)}</span>'


def _figure(picture: Thumbnail) -> str:
    seconds, jpeg = picture
    encoded = base64.b64encode(jpeg).decode("ascii")
    return f'<figure><img alt="" src="data:image/jpeg;base64,{encoded}">{seconds:.0f} s</figure>'


def _shown(number: int, most: int = NUM_SHOWN) -> str:
    return f"<p>{number} in all{f'; the first {most} are shown' if number > most else ''}.</p>"


def _say(value: Any) -> str:
    text = str(value)
    return escape(
        text[:NUM_CHARACTERS_SHOWN] + (" ..." if len(text) > NUM_CHARACTERS_SHOWN else "")
    )
