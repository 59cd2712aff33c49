"""Render an annotation as an HTML page for spot checks: `render_page`.

The page shows the video, its timeline, captions, and questions with their evidence. A click on a
time plays the video from there. The page loads nothing but the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import ascii_uppercase
from typing import Any
from urllib.parse import quote

from lit_hour.io.html import html_options, html_page, html_table
from lit_hour.taxonomy import TASKS
from lit_hour.text.timestamp import format_timestamp
from lit_hour.videomarathon.annotation import Annotation
from lit_hour.videomarathon.captions import CAPTION_FIELDS

STYLE = """
video { width: 100%; max-height: 420px; background: #000 }
.line { position: relative; height: 26px; background: #f0f0f0; margin: .3em 0 }
.line a { position: absolute; height: 100%; background: #3b6fb6; opacity: .55; min-width: 2px;
  border-right: 1px solid #fff }
.line.evidence a { background: #e08a2e }
a[data-seconds] { color: #3b6fb6; cursor: pointer; white-space: nowrap }
.dropped { color: #a33 }
"""
SCRIPT = """
const video = document.querySelector("video");
for (const link of document.querySelectorAll("a[data-seconds]"))
  link.onclick = () => { video.currentTime = Number(link.dataset.seconds); video.play(); };
"""
TASK_ORDER = {task.key: index for index, task in enumerate(TASKS)}


def render_page(annotation: Annotation, video: str) -> str:
    """Return the page of one video.

    Args:
        annotation: of the video.
        video: path of the video file, relative to the page.
    """
    duration = annotation.duration_seconds
    questions = sorted(annotation.questions, key=lambda question: TASK_ORDER[question["task"]])
    evidence = sorted(
        {(start, end) for question in questions for start, end in question["evidence"]}
    )
    events = [
        (event["start_seconds"], event["end_seconds"], event["text"]) for event in annotation.events
    ]
    summary = annotation.summary or f"Skipped: {annotation.skip_reason}"
    parts = (
        f'<video controls preload="metadata" src="{escape(quote(video))}"></video>',
        _timeline("events", events, duration),
        _timeline("evidence", [(*interval, "") for interval in evidence], duration),
        f"<p>{escape(summary)}</p>",
        f"<h2>{len(events)} events</h2>",
        html_table((_time_link(start, end), escape(text)) for start, end, text in events),
        f"<h2>{len(questions)} questions</h2>",
        html_table(_question_row(question) for question in questions),
        f"<h2>{len(annotation.dropped)} dropped</h2>",
        html_table(_dropped_row(dropped) for dropped in annotation.dropped),
        f"<h2>{len(annotation.captions)} captions</h2>",
        html_table(_caption_row(caption) for caption in annotation.captions),
    )
    return html_page(annotation.video, parts, STYLE, SCRIPT)


def _timeline(name: str, spans: Sequence[tuple[float, float, str]], duration_seconds: float) -> str:
    """Return bars for (start, end, text) on a line that stands for the video."""
    percent = 100 / duration_seconds
    bars = "".join(
        f'<a data-seconds="{start:g}" title="{escape(f"{format_timestamp(start)} {text}")}"'
        f' style="left:{start * percent:.2f}%;width:{(end - start) * percent:.2f}%"></a>'
        for start, end, text in spans
    )
    return f'<div class="small">{name}</div><div class="line {name}">{bars}</div>'


def _question_row(question: dict[str, Any]) -> tuple[str, str, str]:
    times = "<br>".join(_time_link(start, end) for start, end in question["evidence"])
    answer = html_options(
        (letter, option, option == question["answer"])
        for letter, option in zip(ascii_uppercase, question["options"], strict=False)
    )
    return (
        times,
        f'<span class="small">{escape(question["task"])}</span>',
        f"{escape(question['question'])}<br>"
        + (answer or f'<span class="correct">{escape(question["answer"])}</span>'),
    )


def _dropped_row(dropped: dict[str, Any]) -> tuple[str, str]:
    record, reason = dropped["record"], f"{dropped['filter']}: {dropped['reason']}"
    return (
        f'<span class="small">{escape(record["task"])}</span>',
        f'{escape(record["question"])}<br><span class="dropped">{escape(reason)}</span>',
    )


def _caption_row(caption: dict[str, Any]) -> tuple[str, str]:
    fields = "".join(f"<p><b>{name}</b> {escape(caption[name])}</p>" for name in CAPTION_FIELDS)
    return _time_link(caption["start_seconds"], caption["end_seconds"]), fields


def _time_link(start: float, end: float) -> str:
    times = f"{format_timestamp(start)}-{format_timestamp(end)}"
    return f'<a data-seconds="{start:g}">{times}</a>'
