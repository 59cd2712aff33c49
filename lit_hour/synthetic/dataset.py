"""The world settings in, two sets of videos out: one to train on and one to validate on.

FOLDER/train/       a set, as `build_split` describes it
FOLDER/validation/  another


A plan of videos in, a folder with the videos and all that is known about them out.

    FOLDER/world.json              the settings that the videos were made with
    FOLDER/videos/world_00000.mp4  one story each
    FOLDER/questions.json          a flat list, one record for each question: what `pack` reads
    FOLDER/captions.jsonl          for each video a line: its seed, summary, events, and a caption of each minute
    FOLDER/index.html              sample frames, questions with their evidence, and charts, to look at
    FOLDER/totals.json             counts; written last, so its presence says that the set is finished

Stopped half way, it continues where it was: every file has its name only when it is whole.


The world settings in, packed shards out: what the default run trains on.

The words of `python -m lit_hour synthesize` in, a set of made-up videos out, and what to do with it next."""

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
from lit_hour.io.atomic import whole
from lit_hour.io.file_lock import locked
from lit_hour.synthetic.captions import (
    describe_clip,
    list_events,
    split_into_clips,
    summarize_story,
)
from lit_hour.synthetic.preview_html import PreviewPage
from lit_hour.synthetic.questions.generate import generate_questions, parse_tasks
from lit_hour.synthetic.render import UNFINISHED_SUFFIX, render_stories
from lit_hour.synthetic.story import Story
from lit_hour.synthetic.video_plan import (
    SPLITS,
    VideoPlan,
    generate_planned_story,
    parse_length,
    plan_hours,
    plan_split,
)
from lit_hour.taxonomy import TASKS
from lit_hour.types import Question


@dataclass(frozen=True)
class SyntheticDataset:
    """Where the videos and the questions about them lie, for training and for validation."""

    train_videos: Path
    train_questions: Path
    validation_videos: Path
    validation_questions: Path

    def example(self) -> tuple[str, str, str]:
        """A video to validate on, an open-ended question about it, and the true answer."""
        record = json.loads(self.validation_questions.read_text(encoding="utf-8"))[0]
        return str(self.validation_videos / record["video"]), record["question"], record["answer"]


def build_dataset(settings: SyntheticConfig, num_workers: int | None = None) -> SyntheticDataset:
    """Make every video and both sets of questions that are not there yet.

    Args:
        settings: how many videos of which kind, and where.
        num_workers: videos rendered at once; None for one per core.

    Raises:
        SyntheticDataError: the settings ask for no video or for more hours than videos, the folder holds a world made with
            other settings, or a file cannot be written.
    """
    folder = Path(settings.folder)
    plans = {split: plan_split(settings, split) for split in SPLITS}
    origin = {
        name: getattr(settings, name) for name in ("seed", "num_hour_videos", "duration_seconds")
    }
    for split in SPLITS:
        build_split(folder / split, plans[split], settings, origin, num_workers)
    return SyntheticDataset(
        folder / "train" / "videos",
        folder / "train" / "questions.json",
        folder / "validation" / "videos",
        folder / "validation" / "questions.json",
    )


GENERATOR_VERSION = (
    2  # raise it when the same seed tells another story, draws it differently or is asked otherwise
)
CLIP_SECONDS = 60.0  # of each caption
STORY_SETTINGS = (
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


@dataclass(frozen=True)
class SplitTotals:
    """What a finished set holds: `num_questions` of each task."""

    num_videos: int
    duration_seconds: float
    num_questions: dict[str, int]


def build_split(
    folder: Path,
    plans: list[VideoPlan],
    settings: SyntheticConfig,
    origin: dict[str, Any],
    num_workers: int | None = None,
) -> SplitTotals:
    """Make every video and file of a set that is not there yet; more videos leave the others as they are.

    Args:
        origin: what the plans follow from besides `settings`; a folder that was made from something else is refused.
        num_workers: videos rendered at once; None for one per core.

    Raises:
        SyntheticDataError: a story cannot be told, the folder holds another set, or a file cannot be written.
    """
    generate_planned_story(
        plans[0], settings
    )  # refuses what cannot be told before anything is written
    made_with = {
        "generator_version": GENERATOR_VERSION,
        **origin,
        **{name: getattr(settings, name) for name in STORY_SETTINGS},
    }
    try:
        with locked(folder):
            _claim(folder, made_with)
            _render_missing(folder, plans, settings, num_workers or os.cpu_count() or 1)
            return _read_totals(folder, plans) or _describe(folder, plans, settings)
    except OSError as error:
        raise SyntheticDataError(f"{folder} cannot be filled: {error}") from error


def _claim(folder: Path, made_with: dict[str, Any]) -> None:
    """Write down what the first videos of a folder are made with; refuse a folder whose videos were made otherwise."""
    path = folder / "world.json"
    way_out = f"choose another folder than {folder}, or delete that folder to make its videos anew"
    if not any(folder.glob("videos/*.mp4")):
        (folder / "totals.json").unlink(missing_ok=True)
        with whole(path) as file:
            json.dump(made_with, file, indent=1)
        return
    if not path.exists():
        raise SyntheticDataError(
            f"{folder} holds videos but no world.json that says what they are: {way_out}"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SyntheticDataError(f"{path} is damaged ({error}): {way_out}") from error
    if found != made_with:
        raise SyntheticDataError(
            f"{path} says that the videos there were made with {found}, but asked for is {made_with}: {way_out}"
        )


def _render_missing(
    folder: Path, plans: list[VideoPlan], settings: SyntheticConfig, num_workers: int
) -> None:
    videos = folder / "videos"
    videos.mkdir(exist_ok=True)
    for unfinished in videos.glob("*" + UNFINISHED_SUFFIX):
        unfinished.unlink()  # what a killed run left behind: nobody else is at work here
    missing = [plan for plan in plans if not (videos / f"{plan.name}.mp4").exists()]
    stories = (
        (generate_planned_story(plan, settings), videos / f"{plan.name}.mp4") for plan in missing
    )
    render_stories(stories, len(missing), settings.image_size, settings.fps, num_workers)


def _read_totals(folder: Path, plans: list[VideoPlan]) -> SplitTotals | None:
    """The totals, if all that is said about these videos is there."""
    if not all(
        (folder / name).exists()
        for name in ("totals.json", "questions.json", "captions.jsonl", "index.html")
    ):
        return None
    totals = SplitTotals(**json.loads((folder / "totals.json").read_text(encoding="utf-8")))
    return totals if totals.num_videos == len(plans) else None


def _describe(folder: Path, plans: list[VideoPlan], settings: SyntheticConfig) -> SplitTotals:
    """Write down all that is said about the videos, one video after the other."""
    (folder / "totals.json").unlink(missing_ok=True)
    tasks = parse_tasks(settings.tasks)
    page = PreviewPage(folder.name, plans)
    num_questions: Counter[str] = Counter()
    with (
        whole(folder / "questions.json") as question_file,
        whole(folder / "captions.jsonl") as caption_file,
    ):
        question_file.write("[")
        for plan in plans:
            story = generate_planned_story(plan, settings)
            asked = generate_questions(story, plan.name, tasks, settings.questions_per_task)
            for question in asked:
                question_file.write(",\n" if num_questions else "\n")
                question_file.write(json.dumps(_question_record(plan.name, question)))
                num_questions[question.task] += 1
            caption_file.write(json.dumps(_caption_record(plan.name, story)) + "\n")
            page.add(plan, story, asked)
        question_file.write("\n]\n")
    with whole(folder / "index.html") as page_file:
        page_file.write(page.html())
    totals = SplitTotals(
        len(plans), sum(plan.duration_seconds for plan in plans), dict(num_questions)
    )
    with whole(folder / "totals.json") as totals_file:
        json.dump(asdict(totals), totals_file, indent=1)
    return totals


def _question_record(name: str, question: Question) -> dict[str, Any]:
    """One entry of a question file; an open-ended question has no options."""
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
    """What a perfect witness would say of a video."""
    return {
        "video": f"{name}.mp4",
        "seed": story.seed,
        "duration_seconds": story.duration_seconds,
        "summary": summarize_story(story),
        "events": [asdict(event) for event in list_events(story)],
        "captions": [
            asdict(describe_clip(story, *clip)) for clip in split_into_clips(story, CLIP_SECONDS)
        ],
    }


def build_and_pack(config: Config) -> SyntheticDataset:
    """Make the world's videos, as far as they are not there yet, and pack them into `FOLDER/{train,validation}/shards`."""
    world = build_dataset(config.synthetic)
    for videos, question_file in (
        (world.train_videos, world.train_questions),
        (world.validation_videos, world.validation_questions),
    ):
        pack(videos, question_file, videos.parent / "shards", config.video, config.pack)
    return world


def synthesize(out: Path, hours: float, length: str, settings: SyntheticConfig) -> str:
    """Make a set of so many hours, or go on with one that was stopped.

    Args:
        hours: of video in all; the last video may reach beyond.
        length: shortest and longest duration, `3m-60m`, or one for all, `1h`.
        settings: seed, size, rate, stories and tasks; the folder and the numbers of videos in it do not count.

    Returns:
        What was made, and the commands that come next.

    Raises:
        SyntheticDataError: there is nothing to make, a story cannot be told, or `out` holds another set or cannot be filled.
    """
    length_seconds = parse_length(length)
    plans = plan_hours(hours, length_seconds, settings.seed)
    totals = build_split(
        out, plans, settings, {"seed": settings.seed, "length_seconds": list(length_seconds)}
    )
    folder = quote(str(out))
    return (
        f"{out}: {totals.num_videos} videos ({totals.duration_seconds / 3600:.2f} hours),"
        f" {sum(totals.num_questions.values())} questions on {len(totals.num_questions)} of {len(TASKS)} tasks\n"
        f"to look at: {out}/index.html\n"
        f"to pack them: python -m lit_hour pack {folder}/videos {folder}/questions.json {folder}/shards conf/tiny_model.yaml\n"
        f"to train on them: python train.py conf/tiny_model.yaml run.name=world data.sources.world.shards={folder}/shards"
    )
