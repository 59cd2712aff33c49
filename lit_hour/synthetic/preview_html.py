"""Stories and the questions about them in, one HTML page out, to look at: frames, questions with their evidence, charts.

The page needs nothing but itself; its links play the videos beside it from the second at which an answer is seen.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from html import escape
from string import ascii_uppercase

import numpy as np
from PIL import Image

from lit_hour.synthetic.draw import draw_bars, draw_histogram
from lit_hour.synthetic.render import draw_moment
from lit_hour.synthetic.story import Interval, Story
from lit_hour.synthetic.story_index import format_clock, format_duration
from lit_hour.synthetic.video_plan import VideoPlan
from lit_hour.taxonomy import TASKS
from lit_hour.types import Question

NUM_STRIPS, FRAMES_IN_STRIP = 6, 8
FRAME_PIXELS = 112
NUM_LINKS = 4  # evidence intervals shown of each question

STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 1040px; padding: 0 1em; color: #222; background: #fff }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em }
table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid #ddd; padding: .5em; text-align: left; vertical-align: top }
figure { display: inline-block; margin: 0 .3em .3em 0; text-align: center; font-size: 12px; color: #555 }
img { display: block; border-radius: 3px } .right { font-weight: 600; color: #0a7a3d } .small { color: #555; font-size: 13px }
"""


class PreviewPage:
    """The page of one set, filled video by video."""

    def __init__(self, name: str, plans: list[VideoPlan]) -> None:
        self.name = name
        self.minutes = [plan.duration_seconds / 60 for plan in plans]
        chosen = np.linspace(
            0, len(plans) - 1, min(NUM_STRIPS, len(plans))
        )  # (strips,) spread over the set
        self.shown = {plans[round(index)].name for index in chosen}
        self.strips: list[str] = []
        self.row_of_task: dict[str, str] = {}
        self.counts: dict[str, Counter[str]] = {
            "open_ended": Counter(),
            "multiple_choice": Counter(),
        }

    def add(self, plan: VideoPlan, story: Story, asked: list[Question]) -> None:
        """Count the questions of a video, and show frames of it if it is one of those that are shown."""
        for question in asked:
            self.counts[question.format][question.task] += 1
            is_choice = question.format == "multiple_choice"
            if is_choice and question.task not in self.row_of_task:
                self.row_of_task[question.task] = _row(plan, story, question)
        if plan.name in self.shown:
            self.strips.append(_strip(plan, story))

    def html(self) -> str:
        """The whole page."""
        num_questions = sum(counts.total() for counts in self.counts.values())
        hours = sum(self.minutes) / 60
        rows = [self.row_of_task[task.key] for task in TASKS if task.key in self.row_of_task]
        bars = [(task.key, [counts[task.key] for counts in self.counts.values()]) for task in TASKS]
        return "\n".join(
            (
                f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.name)}</title>',
                f"<style>{STYLE}</style></head><body>",
                f"<h1>Made-up videos: {escape(self.name)}</h1>",
                f"<p>{len(self.minutes)} videos, {hours:.2f} hours, {num_questions} questions on {len(rows)} of"
                f" {len(TASKS)} tasks. Every answer is known: click a time to see its evidence in the video.</p>",
                "<h2>Videos</h2>",
                *self.strips,
                "<h2>One question of each task</h2>",
                "<table><tr><th>Evidence</th><th>Task</th><th>Question</th></tr>",
                *rows,
                "</table><h2>Questions of each task</h2>",
                draw_bars(bars, ["open-ended", "multiple choice"]),
                "<h2>Durations</h2>",
                draw_histogram(self.minutes, "minutes", "videos"),
                "</body></html>\n",
            )
        )


def _strip(plan: VideoPlan, story: Story) -> str:
    """Frames spread over a video, each a link to its second."""
    moments = np.linspace(0, story.duration_seconds, FRAMES_IN_STRIP, endpoint=False)  # (frames,)
    moments = (
        moments + story.duration_seconds / FRAMES_IN_STRIP / 2
    )  # (frames,) the middles of equal parts
    figures = "".join(
        _figure(plan, story, (float(moment), story.duration_seconds)) for moment in moments
    )
    title = f"{plan.name}.mp4: {format_duration(story.duration_seconds)}, {len(story.scenes)} scenes, {len(story.actions)} deeds"
    return f'<p><a href="videos/{plan.name}.mp4">{escape(title)}</a></p><div>{figures}</div>'


def _row(plan: VideoPlan, story: Story, question: Question) -> str:
    links = ", ".join(_link(plan, interval) for interval in question.evidence[:NUM_LINKS])
    more = (
        f" and {len(question.evidence) - NUM_LINKS} more"
        if len(question.evidence) > NUM_LINKS
        else ""
    )
    options = "<br>".join(
        f'<span class="{"right" if option == question.answer else ""}">{letter}. {escape(option)}</span>'
        for letter, option in zip(ascii_uppercase, question.options, strict=False)
    )
    return (
        f"<tr><td>{_figure(plan, story, question.evidence[0])}</td>"
        f'<td>{escape(question.task)}<br><span class="small">{plan.name}: {links}{more}</span></td>'
        f"<td>{escape(question.question)}<br>{options}</td></tr>"
    )


def _figure(plan: VideoPlan, story: Story, interval: Interval) -> str:
    """The frame at the middle of an interval, or at its start if it reaches to the end of the story."""
    seconds = interval[0] if interval[1] >= story.duration_seconds else sum(interval) / 2
    with io.BytesIO() as file:
        Image.fromarray(draw_moment(story, seconds, FRAME_PIXELS)).save(file, "PNG")
        encoded = base64.b64encode(file.getvalue()).decode("ascii")
    image = f'<img width="{FRAME_PIXELS}" height="{FRAME_PIXELS}" alt="" src="data:image/png;base64,{encoded}">'
    return f'<figure><a href="videos/{plan.name}.mp4#t={seconds:g}">{image}</a>{format_clock(seconds)}</figure>'


def _link(plan: VideoPlan, interval: Interval) -> str:
    start, end = interval
    return f'<a href="videos/{plan.name}.mp4#t={start:g},{end:g}">{format_clock(start)}-{format_clock(end)}</a>'
