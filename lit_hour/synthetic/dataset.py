"""Build data sets of synthetic videos: both splits of a run, or one set of so many hours.

- `build_and_pack`: the splits of the `synthetic` settings, packed into shards, for training.
- `synthesize`: one set with its own folder, for `lit-hour synthesize`.

A split is a folder:

    FOLDER/generator.json          version of the generator and the settings of the videos
    FOLDER/videos/synthetic_00000.mp4
    FOLDER/questions.json          a flat list with one record per question, as `pack` reads it
    FOLDER/captions.jsonl          one line per video: seed, summary, events, caption of each minute
    FOLDER/index.html              preview: frames, questions with their evidence, and charts
    FOLDER/totals.json             counts; written last, so that it marks a finished split

Every file is written atomically. An interrupted build continues where it stopped.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from lit_hour.config.schema import Config
from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.data.packing.pack import pack
from lit_hour.errors import SyntheticDataError
from lit_hour.io.atomic import atomic_write, remove_temp_files
from lit_hour.io.file_lock import dir_lock
from lit_hour.synthetic.captions import (
    describe_clip,
    list_events,
    split_into_clips,
    summarize_story,
)
from lit_hour.synthetic.preview_html import PreviewPage
from lit_hour.synthetic.questions.generate import generate_questions, parse_tasks
from lit_hour.synthetic.render import render_stories
from lit_hour.synthetic.story import Story
from lit_hour.synthetic.video_plan import (
    SPLITS,
    VideoPlan,
    generate_planned_story,
    parse_duration_range,
    plan_hours,
    plan_split,
)
from lit_hour.taxonomy import TASKS
from lit_hour.types import Question

# Raise this number when the same seed gives other stories, frames, questions or file names.
GENERATOR_VERSION = 3
CLIP_SECONDS = 60.0  # of each caption
STORY_SETTINGS = (  # settings that determine a video and its questions
    "image_size",
    "fps",
    "difficulty",
    "num_actors",
    "actions_per_minute",
    "num_needles",
    "needle_seconds",
    "tasks",
    "questions_per_task",
)
GENERATOR_FILE, TOTALS_FILE = "generator.json", "totals.json"
QUESTION_FILE, CAPTION_FILE, PREVIEW_FILE = "questions.json", "captions.jsonl", "index.html"


@dataclass(frozen=True)
class SyntheticDataset:
    """Locations of the videos and the question files of both splits."""

    train_videos: Path
    train_questions: Path
    validation_videos: Path
    validation_questions: Path

    @property
    def splits(self) -> tuple[tuple[Path, Path], ...]:
        """Videos and questions of the training split, then of the validation split."""
        return (
            (self.train_videos, self.train_questions),
            (self.validation_videos, self.validation_questions),
        )

    def example(self) -> tuple[str, str, str]:
        """Return a validation video, an open-ended question about it, and the correct answer."""
        record = json.loads(self.validation_questions.read_text(encoding="utf-8"))[0]
        return str(self.validation_videos / record["video"]), record["question"], record["answer"]


@dataclass(frozen=True)
class SplitTotals:
    """Size of a finished split; `num_questions` is per task."""

    num_videos: int
    duration_seconds: float
    num_questions: dict[str, int]


def build_and_pack(config: Config) -> SyntheticDataset:
    """Build both splits as far as they are missing, and pack them into `FOLDER/SPLIT/shards`."""
    dataset = build_dataset(config.synthetic)
    for videos, question_file in dataset.splits:
        pack(videos, question_file, videos.parent / "shards", config.video, config.pack)
    return dataset


def build_dataset(settings: SyntheticConfig, num_workers: int | None = None) -> SyntheticDataset:
    """Build the videos and question files of both splits as far as they are missing.

    Args:
        settings: number and kind of the videos, and the folder.
        num_workers: videos rendered in parallel; one per core if None.

    Raises:
        SyntheticDataError: the settings give no video or more hours than videos, the folder holds
            videos of other settings, or a file cannot be written.
    """
    folder = Path(settings.folder)
    plans = {split: plan_split(settings, split) for split in SPLITS}
    plan_settings = {
        name: getattr(settings, name) for name in ("seed", "num_hour_videos", "duration_seconds")
    }
    for split in SPLITS:
        build_split(folder / split, plans[split], settings, plan_settings, num_workers)
    return SyntheticDataset(
        folder / "train" / "videos",
        folder / "train" / QUESTION_FILE,
        folder / "validation" / "videos",
        folder / "validation" / QUESTION_FILE,
    )


def synthesize(out: Path, hours: float, length: str, settings: SyntheticConfig) -> str:
    """Build one set of so many hours, or continue an interrupted one.

    Args:
        out: folder of the set.
        hours: total duration; the last video may exceed it.
        length: shortest and longest duration, such as `3m-60m`, or one for all, such as `1h`.
        settings: seed, size, rate, stories and tasks; its folder and numbers of videos are ignored.

    Returns:
        A summary, and the commands that come next.

    Raises:
        SyntheticDataError: there is nothing to make, a story cannot be generated, `out` holds
            videos of other settings, or a file cannot be written.
    """
    duration_range = parse_duration_range(length)
    plans = plan_hours(hours, duration_range, settings.seed)
    plan_settings = {"seed": settings.seed, "length_seconds": list(duration_range)}
    totals = build_split(out, plans, settings, plan_settings)
    folder = quote(str(out))
    return (
        f"{out}: {totals.num_videos} videos ({totals.duration_seconds / 3600:.2f} hours),"
        f" {sum(totals.num_questions.values())} questions on {len(totals.num_questions)} of"
        f" {len(TASKS)} tasks\n"
        f"preview: {out}/{PREVIEW_FILE}\n"
        f"to pack: lit-hour pack -c conf/tiny_model.yaml {folder}/videos {folder}/{QUESTION_FILE}"
        f" {folder}/shards\n"
        "to train: python train.py -c conf/tiny_model.yaml run.name=synthetic"
        f" data.sources.synthetic.shards={folder}/shards"
    )


def build_split(
    folder: Path,
    plans: list[VideoPlan],
    settings: SyntheticConfig,
    plan_settings: dict[str, Any],
    num_workers: int | None = None,
) -> SplitTotals:
    """Build the videos and files of a split as far as they are missing.

    A longer list of plans adds videos and leaves the present ones as they are.

    Args:
        folder: of the split.
        plans: its videos.
        settings: of the stories and their rendering.
        plan_settings: the settings that the plans were made from; a folder whose videos were made
            from others is refused.
        num_workers: videos rendered in parallel; one per core if None.

    Raises:
        SyntheticDataError: a story cannot be generated, the folder holds videos of other settings,
            or a file cannot be written.
    """
    generate_planned_story(plans[0], settings)  # raises before anything is written
    made_with = {
        "generator_version": GENERATOR_VERSION,
        **plan_settings,
        **{name: getattr(settings, name) for name in STORY_SETTINGS},
    }
    try:
        with dir_lock(folder):
            _check_generator(folder, made_with)
            _render_missing(folder, plans, settings, num_workers or os.cpu_count() or 1)
            return _read_totals(folder, plans) or _write_texts(folder, plans, settings)
    except OSError as error:
        raise SyntheticDataError(f"Cannot write to {folder}: {error}") from error


def _check_generator(folder: Path, made_with: dict[str, Any]) -> None:
    """Record what the videos of a folder are made with, or compare it with the record.

    Raises:
        SyntheticDataError: the folder holds videos without a record, or with another one.
    """
    path = folder / GENERATOR_FILE
    remedy = f"Choose another folder than {folder}, or delete it to make its videos again."
    if not any(folder.glob("videos/*.mp4")):
        (folder / TOTALS_FILE).unlink(missing_ok=True)
        with atomic_write(path) as file:
            json.dump(made_with, file, indent=1)
        return
    if not path.exists():
        raise SyntheticDataError(
            f"{folder} holds videos but no {GENERATOR_FILE} with their settings. {remedy}"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SyntheticDataError(f"{path} is corrupt ({error}). {remedy}") from error
    if found != made_with:
        raise SyntheticDataError(
            f"The videos of {folder} were made with other settings: {path} says {found}, requested"
            f" is {made_with}. {remedy}"
        )


def _render_missing(
    folder: Path, plans: list[VideoPlan], settings: SyntheticConfig, num_workers: int
) -> None:
    videos = folder / "videos"
    videos.mkdir(exist_ok=True)
    remove_temp_files(videos)  # of a killed run; the folder is locked, so no other run writes here
    missing = [plan for plan in plans if not (videos / f"{plan.name}.mp4").exists()]
    stories = (
        (generate_planned_story(plan, settings), videos / f"{plan.name}.mp4") for plan in missing
    )
    render_stories(stories, len(missing), settings.image_size, settings.fps, num_workers)


def _read_totals(folder: Path, plans: list[VideoPlan]) -> SplitTotals | None:
    """Return the totals if all texts about these videos are written, else None."""
    names = (TOTALS_FILE, QUESTION_FILE, CAPTION_FILE, PREVIEW_FILE)
    if not all((folder / name).exists() for name in names):
        return None
    totals = SplitTotals(**json.loads((folder / TOTALS_FILE).read_text(encoding="utf-8")))
    return totals if totals.num_videos == len(plans) else None


def _write_texts(folder: Path, plans: list[VideoPlan], settings: SyntheticConfig) -> SplitTotals:
    """Write questions, captions, preview and totals, one video at a time."""
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
            questions = generate_questions(story, plan.name, tasks, settings.questions_per_task)
            for question in questions:
                question_file.write(",\n" if num_questions else "\n")
                question_file.write(json.dumps(_question_record(plan.name, question)))
                num_questions[question.task] += 1
            caption_file.write(json.dumps(_caption_record(plan.name, story)) + "\n")
            page.add(plan, story, questions)
        question_file.write("\n]\n")
    with atomic_write(folder / PREVIEW_FILE) as page_file:
        page_file.write(page.html())
    duration_seconds = sum(plan.duration_seconds for plan in plans)
    totals = SplitTotals(len(plans), duration_seconds, dict(num_questions))
    with atomic_write(folder / TOTALS_FILE) as totals_file:
        json.dump(asdict(totals), totals_file, indent=1)
    return totals


def _question_record(name: str, question: Question) -> dict[str, Any]:
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
