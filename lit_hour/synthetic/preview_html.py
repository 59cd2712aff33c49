"""Preview page of a synthetic data set: sample frames, one question per task, and charts.

`PreviewPage` is filled video by video. The page is self-contained; its links open the videos in the
folder beside it at the second that shows an answer.
"""

from __future__ import annotations

import io
from collections import Counter
from html import escape
from string import ascii_uppercase

import numpy as np
from PIL import Image

from lit_hour.io.html import html_options, html_page, html_table, image_data_uri
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.synthetic.charts import draw_bars, draw_histogram
from lit_hour.synthetic.render import draw_frame
from lit_hour.synthetic.story import Interval, Story
from lit_hour.synthetic.story_index import format_duration
from lit_hour.synthetic.video_plan import VideoPlan
from lit_hour.taxonomy import TASKS
from lit_hour.text.timestamp import format_timestamp
from lit_hour.types import Question, QuestionFormat

NUM_STRIPS, FRAMES_PER_STRIP = 6, 8
FRAME_PIXELS = 112
MAX_LINKS = 4  # evidence intervals shown per question

STYLE = "figure { text-align: center } img { border-radius: 3px }"


class PreviewPage:
    """The page of one split. Call `add` for every video, then `html`."""

    def __init__(self, name: str, plans: list[VideoPlan]) -> None:
        self.name = name
        self.minutes = [plan.duration_seconds / 60 for plan in plans]
        num_strips = min(NUM_STRIPS, len(plans))
        indices = evenly_spaced_indices(len(plans), num_strips, "nearest")
        self.strip_names = {plans[index].name for index in indices}
        self.strips: list[str] = []
        self.row_of_task: dict[str, tuple[str, str, str]] = {}
        self.counts: dict[QuestionFormat, Counter[str]] = {
            "open_ended": Counter(),
            "multiple_choice": Counter(),
        }

    def add(self, plan: VideoPlan, story: Story, questions: list[Question]) -> None:
        """Count the questions of a video, and show its frames if it is among the shown ones."""
        for question in questions:
            self.counts[question.format][question.task] += 1
            is_choice = question.format == "multiple_choice"
            if is_choice and question.task not in self.row_of_task:
                self.row_of_task[question.task] = _question_row(plan, story, question)
        if plan.name in self.strip_names:
            self.strips.append(_strip(plan, story))

    def html(self) -> str:
        """Return the page."""
        num_questions = sum(counts.total() for counts in self.counts.values())
        rows = [self.row_of_task[task.key] for task in TASKS if task.key in self.row_of_task]
        bars = [(task.key, [counts[task.key] for counts in self.counts.values()]) for task in TASKS]
        summary = (
            f"{len(self.minutes)} videos, {sum(self.minutes) / 60:.2f} hours,"
            f" {num_questions} questions on {len(rows)} of {len(TASKS)} tasks."
            " Click a time to play the evidence of an answer."
        )
        parts = (
            f"<p>{summary}</p>",
            "<h2>Videos</h2>",
            *self.strips,
            "<h2>One question per task</h2>",
            html_table(rows, ["Evidence", "Task", "Question"]),
            "<h2>Questions per task</h2>",
            draw_bars(bars, ["open-ended", "multiple choice"]),
            "<h2>Durations</h2>",
            draw_histogram(self.minutes, "minutes", "videos"),
        )
        return html_page(f"Synthetic videos: {self.name}", parts, STYLE)


def _strip(plan: VideoPlan, story: Story) -> str:
    """Return frames from the middles of equal parts of a video, each linked to its second."""
    part_seconds = story.duration_seconds / FRAMES_PER_STRIP
    middles = (np.arange(FRAMES_PER_STRIP) + 0.5) * part_seconds  # (frames,)
    frames = "".join(_frame(plan, story, float(seconds)) for seconds in middles)
    duration = format_duration(story.duration_seconds)
    title = f"{plan.name}.mp4: {duration}, {len(story.scenes)} scenes, {len(story.actions)} actions"
    return f'<p><a href="videos/{plan.name}.mp4">{escape(title)}</a></p><div>{frames}</div>'


def _question_row(plan: VideoPlan, story: Story, question: Question) -> tuple[str, str, str]:
    """Return the cells of a table row: a frame of the evidence, the task, the question."""
    start, end = question.evidence[0]
    reaches_end = end >= story.duration_seconds
    frame = _frame(plan, story, start if reaches_end else (start + end) / 2)
    links = ", ".join(_link(plan, interval) for interval in question.evidence[:MAX_LINKS])
    num_more = len(question.evidence) - MAX_LINKS
    more = f" and {num_more} more" if num_more > 0 else ""
    options = html_options(
        (letter, option, option == question.answer)
        for letter, option in zip(ascii_uppercase, question.options, strict=False)
    )
    return (
        frame,
        f'{escape(question.task)}<br><span class="small">{plan.name}: {links}{more}</span>',
        f"{escape(question.question)}<br>{options}",
    )


def _frame(plan: VideoPlan, story: Story, seconds: float) -> str:
    with io.BytesIO() as file:
        Image.fromarray(draw_frame(story, seconds, FRAME_PIXELS)).save(file, "PNG")
        uri = image_data_uri(file.getvalue(), "image/png")
    image = f'<img width="{FRAME_PIXELS}" height="{FRAME_PIXELS}" alt="" src="{uri}">'
    link = f'<a href="videos/{plan.name}.mp4#t={seconds:g}">{image}</a>'
    return f"<figure>{link}{format_timestamp(seconds)}</figure>"


def _link(plan: VideoPlan, interval: Interval) -> str:
    start, end = interval
    times = f"{format_timestamp(start)}-{format_timestamp(end)}"
    return f'<a href="videos/{plan.name}.mp4#t={start:g},{end:g}">{times}</a>'
