"""Write the texts about the videos of a set: questions, captions and the preview page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.io.atomic import atomic_write
from lit_hour.synthetic.captions import (
    describe_clip,
    list_events,
    split_into_clips,
    summarize_story,
)
from lit_hour.synthetic.preview_html import PreviewPage
from lit_hour.synthetic.questions.generate import generate_questions, parse_tasks
from lit_hour.synthetic.story import Story
from lit_hour.synthetic.video_plan import VideoPlan, generate_planned_story
from lit_hour.text.grounding import with_grounding_questions
from lit_hour.types import Question

CLIP_SECONDS = 60.0  # of each caption
QUESTION_FILE, CAPTION_FILE, PREVIEW_FILE = "questions.json", "captions.jsonl", "index.html"
TOTALS_FILE = "totals.json"


@dataclass(frozen=True)
class SplitTotals:
    """Size of a finished split; `num_questions` is per task."""

    num_videos: int
    duration_seconds: float
    num_questions: dict[str, int]


def read_totals(folder: Path, plans: list[VideoPlan]) -> SplitTotals | None:
    """Return the totals if all texts about these videos are written, else None."""
    names = (TOTALS_FILE, QUESTION_FILE, CAPTION_FILE, PREVIEW_FILE)
    if not all((folder / name).exists() for name in names):
        return None
    totals = SplitTotals(**json.loads((folder / TOTALS_FILE).read_text(encoding="utf-8")))
    return totals if totals.num_videos == len(plans) else None


def write_texts(folder: Path, plans: list[VideoPlan], settings: SyntheticConfig) -> SplitTotals:
    """Write questions, captions and preview, one video at a time, and return the totals."""
    (folder / TOTALS_FILE).unlink(missing_ok=True)
    tasks = parse_tasks(settings.tasks)
    page = PreviewPage(folder.name, plans)
    num_questions: Counter[str] = Counter()
    with (
        atomic_write(folder / QUESTION_FILE) as question_file,
        atomic_write(folder / CAPTION_FILE) as caption_file,
    ):
        question_file.write("[")
        for plan in plans:
            story = generate_planned_story(plan, settings)
            questions = with_grounding_questions(
                generate_questions(story, plan.name, tasks, settings.questions_per_task),
                settings.grounding_share,
                story.duration_seconds,
            )
            for question in questions:
                question_file.write(",\n" if num_questions else "\n")
                question_file.write(json.dumps(question_record(plan.name, question)))
                num_questions[question.task] += 1
            caption_file.write(json.dumps(_caption_record(plan.name, story)) + "\n")
            page.add(plan, story, questions)
        question_file.write("\n]\n")
    with atomic_write(folder / PREVIEW_FILE) as page_file:
        page_file.write(page.html())
    duration_seconds = sum(plan.duration_seconds for plan in plans)
    return SplitTotals(len(plans), duration_seconds, dict(num_questions))


def question_record(name: str, question: Question) -> dict[str, Any]:
    """Return one record of a question file; an open-ended question has no options."""
    options = {"options": list(question.options)} if question.options else {}
    return {
        "video": f"{name}.mp4",
        "id": question.id,
        "task": question.task,
        "format": question.format,
        "question": question.question,
        **options,
        "answer": question.answer,
        "evidence": [list(interval) for interval in question.evidence],
    }


def _caption_record(name: str, story: Story) -> dict[str, Any]:
    """Return the ground-truth texts of a video."""
    clips = split_into_clips(story, CLIP_SECONDS)
    return {
        "video": f"{name}.mp4",
        "seed": story.seed,
        "duration_seconds": story.duration_seconds,
        "summary": summarize_story(story),
        "events": [asdict(event) for event in list_events(story)],
        "captions": [asdict(describe_clip(story, *clip)) for clip in clips],
    }
