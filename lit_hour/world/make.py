"""The world settings in, folders of videos and question files out: what `pack` reads.

    FOLDER/world.json                                  the settings that the videos were made with
    FOLDER/{train,validation}/videos/world_00000.mp4   one story each
    FOLDER/{train,validation}/questions.json           a flat list, one record for each question

Stopped half way, it continues where it was: a video has its name only when it is whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from lit_hour.config.schema import WorldConfig
from lit_hour.errors import WorldError
from lit_hour.locked import locked
from lit_hour.types import Question
from lit_hour.world.narrate import narrate
from lit_hour.world.parallel import render_stories
from lit_hour.world.script import Difficulty, Story, write_story

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

HOUR_SECONDS = 3600.0
GENERATOR_VERSION = 1  # raise it when the same seed tells another story or draws it differently


@dataclass(frozen=True)
class World:
    """Where the videos and the questions about them lie, for training and for validation."""

    train_videos: Path
    train_questions: Path
    validation_videos: Path
    validation_questions: Path

    def example(self) -> tuple[str, str, str]:
        """A video to validate on, an open-ended question about it, and the true answer."""
        record = json.loads(self.validation_questions.read_text(encoding="utf-8"))[0]
        return str(self.validation_videos / record["video"]), record["question"], record["answer"]


def make_world(settings: WorldConfig, num_workers: int | None = None) -> World:
    """Make every video and both question files that are not there yet.

    Args:
        settings: how many videos of which kind, and where.
        num_workers: videos rendered at once; None for one per core.

    Raises:
        WorldError: the settings ask for no video or for more hours than videos, the folder holds a world made with
            other settings, or a file cannot be written.
    """
    stories = {split: write_stories(settings, split) for split in SPLITS}
    folder = Path(settings.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _claim(folder, settings)
            for split in SPLITS:
                (folder / split / "videos").mkdir(parents=True, exist_ok=True)
            num_workers = num_workers or os.cpu_count() or 1
            render_stories(_missing_videos(stories, folder), settings.size_pixels, settings.frames_per_second, num_workers)
            for split in SPLITS:
                _write_json(folder / split / "questions.json", _records(stories[split], folder, split, settings.difficulty))
    except OSError as error:
        raise WorldError(f"world.folder {settings.folder} cannot be filled: {error}") from error
    return World(
        folder / "train" / "videos",
        folder / "train" / "questions.json",
        folder / "validation" / "videos",
        folder / "validation" / "questions.json",
    )


def write_stories(settings: WorldConfig, split: Split) -> list[Story]:
    """The stories of a split: first those of an hour, then those of `duration_seconds` give or take a third.

    No two stories of any split of any `settings.seed` have the same seed.

    Raises:
        WorldError: there is no video to make, or there are more hours than videos.
    """
    name = "num_videos" if split == "train" else "num_validation_videos"
    num_videos = getattr(settings, name)
    if num_videos < 1:
        raise WorldError(f"world.{name} is {num_videos}: a world has at least one video in it")
    if settings.num_hour_videos > num_videos:
        raise WorldError(
            f"world.num_hour_videos is {settings.num_hour_videos}, but world.{name} is {num_videos}: "
            "the hours are among the videos, so there cannot be more of them"
        )
    stories = []
    for index in range(num_videos):
        seed = (settings.seed << 33) | ((split == "validation") << 32) | index
        share = Random(f"duration of story {seed}").uniform(2 / 3, 4 / 3)
        is_hour = index < settings.num_hour_videos
        duration_seconds = HOUR_SECONDS if is_hour else float(round(settings.duration_seconds * share))
        stories.append(write_story(seed, duration_seconds, settings.difficulty))
    return stories


def _video_paths(folder: Path, split: Split, num_videos: int) -> list[Path]:
    return [folder / split / "videos" / f"world_{index:05d}.mp4" for index in range(num_videos)]


def _missing_videos(stories: dict[Split, list[Story]], folder: Path) -> list[tuple[Story, Path]]:
    """What is still to be rendered, and where to."""
    return [
        (story, path)
        for split in SPLITS
        for story, path in zip(stories[split], _video_paths(folder, split, len(stories[split])), strict=True)
        if not path.exists()
    ]


def _records(stories: list[Story], folder: Path, split: Split, difficulty: Difficulty) -> list[dict[str, Any]]:
    paths = _video_paths(folder, split, len(stories))
    return [
        _record(path.name, question)
        for story, path in zip(stories, paths, strict=True)
        for question in narrate(story, path.stem, difficulty)
    ]


def _record(video: str, question: Question) -> dict[str, Any]:
    """One entry of a question file; an open-ended question has no options."""
    options = {"options": list(question.options)} if question.options else {}
    return {
        "video": video,
        "id": question.id,
        "task": question.task,
        "format": question.format,
        "question": question.question,
        **options,
        "answer": question.answer,
        "evidence": [list(interval) for interval in question.evidence],
    }


def _claim(folder: Path, settings: WorldConfig) -> None:
    """Write down what the first videos of a folder are made with; refuse a folder whose videos were made otherwise.

    More or fewer videos are no difference: they leave the others as they are.
    """
    wanted = {
        "generator_version": GENERATOR_VERSION,
        "seed": settings.seed,
        "num_hour_videos": settings.num_hour_videos,
        "duration_seconds": settings.duration_seconds,
        "size_pixels": settings.size_pixels,
        "frames_per_second": settings.frames_per_second,
        "difficulty": settings.difficulty,
    }
    path = folder / "world.json"
    way_out = f"choose another world.folder than {settings.folder}, or delete that folder to make its world anew"
    if not any(folder.glob("*/videos/*.mp4")):
        _write_json(path, wanted)
        return
    if not path.exists():
        raise WorldError(f"{folder} holds videos but no world.json that says what they are: {way_out}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorldError(f"{path} is damaged ({error}): {way_out}") from error
    if found != wanted:
        raise WorldError(f"{path} says that the videos there were made with {found}, but asked for is {wanted}: {way_out}")


def _write_json(path: Path, content: Any) -> None:
    """Write the whole file or leave what was there."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
