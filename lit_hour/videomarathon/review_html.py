"""An annotation in, an HTML page out, to spot-check it: the video, its timeline, captions, and questions with their evidence.

A click on a time plays the video from there. The page loads nothing but the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from string import ascii_uppercase
from typing import Any
from urllib.parse import quote

from lit_hour.taxonomy import TASKS
from lit_hour.videomarathon.annotation import Annotation
from lit_hour.videomarathon.captions import CAPTION_FIELDS

STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 1040px; padding: 0 1em; color: #222; background: #fff }
video { width: 100%; max-height: 420px; background: #000 }
table { border-collapse: collapse; width: 100% } td { border-top: 1px solid #ddd; padding: .5em; vertical-align: top }
.line { position: relative; height: 26px; background: #f0f0f0; margin: .3em 0 } .line a { position: absolute; height: 100%;
background: #3b6fb6; opacity: .55; min-width: 2px; border-right: 1px solid #fff } .line.evidence a { background: #e08a2e }
a[data-seconds] { color: #3b6fb6; cursor: pointer; white-space: nowrap } .right { font-weight: 600; color: #0a7a3d }
.small { color: #555; font-size: 13px } .dropped { color: #a33 }
"""
PLACE_OF_TASK = {task.key: place for place, task in enumerate(TASKS)}
SCRIPT = """
const video = document.querySelector("video");
for (const link of document.querySelectorAll("a[data-seconds]"))
  link.onclick = () => { video.currentTime = Number(link.dataset.seconds); video.play(); };
"""


def render_page(annotation: Annotation, video: str) -> str:
    """The page of one video.

    Args:
        video: path of the video file, as seen from the page.
    """
    questions = sorted(annotation.questions, key=lambda question: PLACE_OF_TASK[question["task"]])
    evidence = sorted(
        {(start, end) for question in questions for start, end in question["evidence"]}
    )
    events = [
        (event["start_seconds"], event["end_seconds"], event["text"]) for event in annotation.events
    ]
    return "\n".join(
        (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(annotation.video)}</title>',
            f"<style>{STYLE}</style></head><body><h1>{escape(annotation.video)}</h1>",
            f'<video controls preload="metadata" src="{escape(quote(video))}"></video>',
            _line("events", events, annotation.duration_seconds),
            _line(
                "evidence", [(*interval, "") for interval in evidence], annotation.duration_seconds
            ),
            f"<p>{escape(annotation.summary or f'Set aside: {annotation.set_aside}')}</p>",
            f"<h2>{len(events)} events</h2>",
            _table((_time(start, end), escape(text)) for start, end, text in events),
            f"<h2>{len(questions)} questions</h2>",
            _table(_question(question) for question in questions),
            f"<h2>{len(annotation.dropped)} dropped</h2>",
            _table(_dropped(dropped) for dropped in annotation.dropped),
            f"<h2>{len(annotation.captions)} captions</h2>",
            _table(_caption(caption) for caption in annotation.captions),
            f"<script>{SCRIPT}</script></body></html>\n",
        )
    )


def _line(name: str, spans: Sequence[tuple[float, float, str]], duration_seconds: float) -> str:
    """Spans of the video as bars on a line, side by side as they are in time."""
    bars = "".join(
        f'<a data-seconds="{start:g}" title="{escape(f"{_clock(start)} {text}")}"'
        f' style="left:{100 * start / duration_seconds:.2f}%;width:{100 * (end - start) / duration_seconds:.2f}%"></a>'
        for start, end, text in spans
    )
    return f'<div class="small">{name}</div><div class="line {name}">{bars}</div>'


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return "<table>" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _question(question: dict[str, Any]) -> tuple[str, str, str]:
    times = "<br>".join(_time(start, end) for start, end in question["evidence"])
    options = "<br>".join(
        f'<span class="{"right" if option == question["answer"] else ""}">{letter}. {escape(option)}</span>'
        for letter, option in zip(ascii_uppercase, question["options"], strict=False)
    )
    answer = options or f'<span class="right">{escape(question["answer"])}</span>'
    return (
        times,
        f'<span class="small">{escape(question["task"])}</span>',
        f"{escape(question['question'])}<br>{answer}",
    )


def _dropped(dropped: dict[str, Any]) -> tuple[str, str]:
    record = dropped["record"]
    why = f'<span class="dropped">{escape(dropped["filter"])}: {escape(dropped["reason"])}</span>'
    return (
        f'<span class="small">{escape(record["task"])}</span>',
        f"{escape(record['question'])}<br>{why}",
    )


def _caption(caption: dict[str, Any]) -> tuple[str, str]:
    sides = "".join(f"<p><b>{side}</b> {escape(caption[side])}</p>" for side in CAPTION_FIELDS)
    return _time(caption["start_seconds"], caption["end_seconds"]), sides


def _time(start: float, end: float) -> str:
    return f'<a data-seconds="{start:g}">{_clock(start)}-{_clock(end)}</a>'


def _clock(seconds: float) -> str:
    """A time as a player shows it: 02:13, and from an hour on 1:02:13."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
