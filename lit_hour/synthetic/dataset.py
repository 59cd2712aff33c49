"""Build data sets of synthetic videos: both splits of a run, or one set of so many hours.

- `start_build`: the splits of the `synthetic` settings, rendered in the background.
- `build_dataset`: the same, complete.
- `synthesize`: one set with its own folder, for `lit-hour synthesize`.

A split is a folder:

    FOLDER/generator.json          version of the generator and the settings of the videos
    FOLDER/videos/synthetic_00000.mp4
    FOLDER/questions.json          a flat list with one record per question, as `pack` reads it
    FOLDER/captions.jsonl          one line per video: seed, summary, events, caption of each minute
    FOLDER/index.html              preview: frames, questions with their evidence, and charts
    FOLDER/totals.json             counts; written last, so that it marks a finished split

Every file is written atomically. An interrupted build continues where it stopped. This module must
not import torch: rendering begins before a training run imports it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.io.atomic import atomic_write, atomic_write_text, remove_temp_files
from lit_hour.io.file_lock import dir_lock
from lit_hour.synthetic.render_pool import (
    FrameSampling,
    RenderedVideo,
    RenderPool,
    RenderTask,
    render_video,
)
from lit_hour.synthetic.texts import (
    PREVIEW_FILE,
    QUESTION_FILE,
    TOTALS_FILE,
    SplitTotals,
    read_totals,
    write_texts,
)
from lit_hour.synthetic.video_plan import (
    SPLITS,
    VideoPlan,
    generate_planned_story,
    parse_duration_range,
    plan_hours,
    plan_split,
)
from lit_hour.taxonomy import TASKS

# Raise this number when the same seed gives other stories, frames, questions or file names.
GENERATOR_VERSION = 4
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
GENERATOR_FILE = "generator.json"


@dataclass(frozen=True)
class SyntheticDataset:
    """Locations of the videos and the question files of both splits."""

    train_videos: Path
    train_questions: Path
    validation_videos: Path
    validation_questions: Path

    @classmethod
    def in_folder(cls, folder: Path) -> SyntheticDataset:
        """Return the locations in the folder of a data set."""
        train, validation = (folder / split for split in SPLITS)
        return cls(
            train / "videos",
            train / QUESTION_FILE,
            validation / "videos",
            validation / QUESTION_FILE,
        )

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
class SplitPlan:
    """A split to build.

    Attributes:
        videos: its planned videos.
        made_from: the settings that the plans were made from; a folder whose videos were made from
            others is refused.
    """

    folder: Path
    videos: list[VideoPlan]
    made_from: dict[str, Any]


class DatasetBuild(AbstractContextManager["DatasetBuild"]):
    """A data set in the making: its missing videos are rendered from the start of the context on.

    The folders of its splits are locked inside the context, unless they are complete.

    Attributes:
        missing: videos that are rendered.
    """

    def __init__(
        self,
        splits: Sequence[SplitPlan],
        settings: SyntheticConfig,
        sampling: FrameSampling | None = None,
        num_workers: int | None = None,
    ) -> None:
        """Prepare a build; nothing is written yet.

        Args:
            splits: folders and plans; a longer list of plans adds videos to those of a folder.
            settings: of the stories and their rendering.
            sampling: of the frames that `rendered` returns; None for no frames.
            num_workers: videos rendered in parallel; one per core if None.

        Raises:
            SyntheticDataError: the story of a split's first video cannot be generated.
        """
        for split in splits:
            generate_planned_story(split.videos[0], settings)
        self._splits, self._settings, self._sampling = splits, settings, sampling
        self._num_workers = num_workers or os.cpu_count() or 1
        self._totals: list[SplitTotals] = []
        self._stack = ExitStack()
        self.missing: frozenset[Path] = frozenset()

    def __enter__(self) -> DatasetBuild:
        """Lock the folders, start rendering, and write all texts.

        Raises:
            SyntheticDataError: a folder holds videos of other settings, a story cannot be
                generated, or a file cannot be written.
        """
        with ExitStack() as stack:
            tasks = []
            for split in self._splits:
                with explain_os_error(split.folder):
                    stack.enter_context(dir_lock(split.folder))
                    check_generator(split.folder, _describe(split, self._settings))
                    tasks += _find_missing(split, self._settings)
            self.missing = frozenset(task.path for task in tasks)
            if tasks:
                pool = RenderPool(tasks, self._num_workers, render_video, self._sampling)
                self._pool: RenderPool[RenderTask] | None = stack.enter_context(pool)
            else:
                self._pool = None
            for split in self._splits:
                with explain_os_error(split.folder):
                    totals = read_totals(split.folder, split.videos)
                    self._totals.append(
                        totals or write_texts(split.folder, split.videos, self._settings)
                    )
            if tasks:
                self._stack = stack.pop_all()
            else:  # other ranks and runs need not wait for the lock
                self.finish()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)  # an error ends rendering at once

    def rendered(self) -> Iterator[RenderedVideo]:
        """Yield the videos that were missing; see `RenderPool.rendered`."""
        if self._pool is not None:
            yield from self._pool.rendered()

    def finish(self) -> list[SplitTotals]:
        """Mark the splits as finished, once `rendered` has been exhausted, and return their sizes.

        Raises:
            SyntheticDataError: a file cannot be written.
        """
        for split, totals in zip(self._splits, self._totals, strict=True):
            path = split.folder / TOTALS_FILE
            with explain_os_error(split.folder):
                if not path.exists():
                    atomic_write_text(path, json.dumps(asdict(totals), indent=1))
        return self._totals


def start_build(
    settings: SyntheticConfig,
    sampling: FrameSampling | None = None,
    num_workers: int | None = None,
) -> DatasetBuild:
    """Return the build of both splits; its context renders what is missing.

    Args:
        settings: number and kind of the videos, and the folder.
        sampling: see `DatasetBuild`.
        num_workers: see `DatasetBuild`.

    Raises:
        SyntheticDataError: the settings give no video or more hours than videos, or a story cannot
            be generated.
    """
    made_from = {
        name: getattr(settings, name) for name in ("seed", "num_hour_videos", "duration_seconds")
    }
    splits = [
        SplitPlan(Path(settings.folder) / split, plan_split(settings, split), made_from)
        for split in SPLITS
    ]
    return DatasetBuild(splits, settings, sampling, num_workers)


def build_dataset(settings: SyntheticConfig, num_workers: int | None = None) -> SyntheticDataset:
    """Build the videos and question files of both splits as far as they are missing.

    Args:
        settings: number and kind of the videos, and the folder.
        num_workers: videos rendered in parallel; one per core if None.

    Raises:
        SyntheticDataError: see `start_build` and `DatasetBuild`.
    """
    with start_build(settings, num_workers=num_workers) as build:
        _complete(build)
    return SyntheticDataset.in_folder(Path(settings.folder))


def _complete(build: DatasetBuild) -> list[SplitTotals]:
    for _ in build.rendered():
        pass
    return build.finish()


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
    made_from = {"seed": settings.seed, "length_seconds": list(duration_range)}
    with DatasetBuild([SplitPlan(out, plans, made_from)], settings) as build:
        (totals,) = _complete(build)
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


@contextmanager
def explain_os_error(folder: Path) -> Iterator[None]:
    """Turn an `OSError` into a `SyntheticDataError` that names the folder."""
    try:
        yield
    except OSError as error:
        raise SyntheticDataError(f"Cannot write to {folder}: {error}") from error


def _describe(split: SplitPlan, settings: SyntheticConfig) -> dict[str, Any]:
    """Return what determines the videos of a split; it is recorded in its folder."""
    share = settings.grounding_share  # recorded where there is one, as sets before it did not
    return {
        "generator_version": GENERATOR_VERSION,
        **split.made_from,
        **{name: getattr(settings, name) for name in STORY_SETTINGS},
        **({"grounding_share": share} if share else {}),
    }


def check_generator(folder: Path, made_with: dict[str, Any]) -> None:
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


def _find_missing(split: SplitPlan, settings: SyntheticConfig) -> list[RenderTask]:
    """Return the videos that have to be rendered, and remove what a killed run left unfinished."""
    videos = split.folder / "videos"
    videos.mkdir(exist_ok=True)
    remove_temp_files(videos)  # the folder is locked, so no other run writes here
    tasks = [RenderTask(plan, settings, videos / f"{plan.name}.mp4") for plan in split.videos]
    missing = [task for task in tasks if not task.path.exists()]
    if missing:
        (split.folder / TOTALS_FILE).unlink(missing_ok=True)
    return missing
