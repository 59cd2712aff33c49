"""Build a set of real footage with photographs in it: `synthesize_footage`.

The set is a folder:

    OUT/generator.json        version of the generator, settings, and digests of what was given
    OUT/footage/              footage that had to be encoded to fit, and what was found out about it
    OUT/videos/*.mp4          clips, most of them copied, with photographs
    OUT/questions.json        input of `pack`
    OUT/photos.jsonl          one line per video: its clips, and its photographs with their times
    OUT/index.html            a preview for the browser
    OUT/totals.json           the counts; written last

Every file is written atomically. After a stop the same command resumes. This module must not import
torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from lit_hour.config.synthetic import FootageConfig, SyntheticConfig
from lit_hour.errors import SyntheticDataError, VideoError
from lit_hour.io.atomic import atomic_write, atomic_write_text, remove_temp_files
from lit_hour.io.file_lock import dir_lock
from lit_hour.io.sampling import seed_of
from lit_hour.media.splicing.footage import TICKS_PER_SECOND, FrameSize
from lit_hour.media.splicing.splice import Overlay, splice_video
from lit_hour.synthetic.dataset import check_generator, explain_os_error
from lit_hour.synthetic.footage.footage_library import FootageLibrary, find_videos, prepare_footage
from lit_hour.synthetic.footage.footage_story import FootageStory, generate_footage_story
from lit_hour.synthetic.footage.photo_library import PhotoLibrary, load_photos
from lit_hour.synthetic.footage.photo_overlay import PhotoOverlay
from lit_hour.synthetic.footage.photo_questions import generate_photo_questions, photo_record
from lit_hour.synthetic.footage.preview import FootagePreview
from lit_hour.synthetic.questions.generate import parse_tasks
from lit_hour.synthetic.render_pool import FrameSampling, RenderedVideo, RenderPool
from lit_hour.synthetic.texts import (
    PREVIEW_FILE,
    QUESTION_FILE,
    TOTALS_FILE,
    SplitTotals,
    question_record,
)
from lit_hour.synthetic.video_plan import Split, VideoPlan, parse_duration_range, plan_hours

# Raise this number when the same seed gives other videos, questions or file names.
GENERATOR_VERSION = 1
PHOTO_FILE = "photos.jsonl"


@dataclass(frozen=True)
class FootageTask:
    """A video to make: its plan, its story, and the file to write."""

    plan: VideoPlan
    story: FootageStory
    path: Path


@dataclass(frozen=True)
class FootageInput:
    """Videos and photographs of the user.

    Attributes:
        footage: folder of videos.
        photos: folder of folders of photographs, named by category.
        split: whose photographs are shown.
    """

    footage: Path
    photos: Path
    split: Split

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> FootageInput:
        """Return what the options of `lit-hour synthesize` name.

        Raises:
            SyntheticDataError: one of the two folders is not given.
        """
        if arguments.footage is None or arguments.photos is None:
            raise SyntheticDataError("--footage needs --photos, and --photos needs --footage.")
        return cls(arguments.footage, arguments.photos, arguments.split)


def synthesize_footage(
    out: Path, hours: float, length: str, given: FootageInput, settings: SyntheticConfig
) -> str:
    """Build a set of so many hours, or continue an interrupted one.

    Args:
        out: folder of the set.
        hours: total duration; the last video may exceed it.
        length: shortest and longest duration, such as `3m-60m`, or one for all, such as `1h`.
        given: footage and photographs.
        settings: seed, tasks, and `footage`.

    Returns:
        A summary, and the command that comes next.

    Raises:
        SyntheticDataError: the settings contradict each other, a folder has nothing usable, `out`
            holds videos of other settings, or a file cannot be written.
    """
    tasks = parse_tasks(settings.tasks)
    size = _parse_size(settings.footage)
    duration_range = parse_duration_range(length)
    plans = plan_hours(hours, duration_range, seed_of(repr((given.split, settings.seed))))
    _check_outside(out, given.footage)
    find_videos(given.footage)  # a missing folder is reported before the photographs are decoded
    library = load_photos(given.photos, given.split)
    made_from = {
        "footage_generator_version": GENERATOR_VERSION,
        "seed": settings.seed,
        "split": given.split,
        "length_seconds": list(duration_range),
        "tasks": settings.tasks,
        "questions_per_task": settings.questions_per_task,
        "footage": _digest_of_folder(given.footage),
        "photos": library.digest,
        **asdict(settings.footage),
    }
    with explain_os_error(out), dir_lock(out):
        check_generator(out, made_from)
        remove_temp_files(out / "footage")
        footage = prepare_footage(given.footage, out, size, os.cpu_count() or 1)
        _check_footage(given.footage, footage, settings.footage)
        (out / "videos").mkdir(exist_ok=True)
        remove_temp_files(out / "videos")
        jobs = [
            FootageTask(
                plan,
                generate_footage_story(plan, footage.clips, library, settings.footage),
                out / "videos" / f"{plan.name}.mp4",
            )
            for plan in plans
        ]
        totals = _write_texts(out, jobs, tasks, settings.questions_per_task)
        missing = [job for job in jobs if not job.path.exists()]
        with RenderPool(missing, os.cpu_count() or 1, make_video) as pool:
            for _ in pool.rendered():
                pass
        atomic_write_text(out / TOTALS_FILE, json.dumps(asdict(totals), indent=1))
    return _summarize(out, totals, footage, library, given.split)


def make_video(task: FootageTask, sampling: FrameSampling | None) -> RenderedVideo:
    """Splice the clips of a video, with its photographs; runs in a process of the pool.

    Raises:
        SyntheticDataError: the footage has changed or is damaged, or the file cannot be written.
    """
    overlays = []
    with _explain_video_error(task.path):
        for photo in task.story.photos:
            seconds = (photo.end - photo.start) / TICKS_PER_SECOND
            overlay = PhotoOverlay(photo.path, photo.motion, seconds)
            overlays.append(Overlay(photo.start, photo.end, overlay.draw))
        splice_video(task.path, task.story.clips, overlays)
    return RenderedVideo(task.path, None)


@contextmanager
def _explain_video_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (VideoError, OSError) as error:
        raise SyntheticDataError(f"Cannot make {path}: {error}") from error


def _parse_size(settings: FootageConfig) -> FrameSize | None:
    """Return the frame size of the settings; None if the footage decides.

    Raises:
        SyntheticDataError: only one side is given, a side is odd, or a range is empty.
    """
    width, height = settings.width, settings.height
    if bool(width) != bool(height) or width % 2 or height % 2:
        raise SyntheticDataError(
            f"synthetic.footage.width={width} and height={height} are not a frame size. Give two"
            " even numbers, or 0 for both."
        )
    for unit in ("photos", "photo_seconds"):
        least, most = (getattr(settings, f"{bound}_{unit}") for bound in ("min", "max"))
        if least > most:
            raise SyntheticDataError(
                f"synthetic.footage.min_{unit}={least} is above max_{unit}={most}. Exchange them."
            )
    return FrameSize(width, height) if width else None


def _check_outside(out: Path, footage: Path) -> None:
    """Refuse a set inside its footage: its own videos would be footage at the next start."""
    if out.resolve().is_relative_to(footage.resolve()):
        raise SyntheticDataError(
            f"{out} is inside the footage {footage}. Name a folder outside it."
        )


def _check_footage(folder: Path, footage: FootageLibrary, settings: FootageConfig) -> None:
    """Refuse footage that is shorter than a photograph is shown."""
    seconds = sum(clip.end for clip in footage.clips) / TICKS_PER_SECOND
    if seconds < settings.max_photo_seconds:
        raise SyntheticDataError(
            f"The footage in {folder} lasts {seconds:.1f} s altogether, less than a photograph of"
            f" {settings.max_photo_seconds:g} s. Add videos, or lower"
            " synthetic.footage.max_photo_seconds."
        )


def _digest_of_folder(folder: Path) -> str:
    """Return a hash of the names and sizes of the videos of a folder."""
    lines = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in find_videos(folder)]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _write_texts(
    out: Path, jobs: list[FootageTask], tasks: tuple[str, ...], per_task: int
) -> SplitTotals:
    """Write questions, truth and preview, and return the totals."""
    num_questions: Counter[str] = Counter()
    records: list[dict[str, Any]] = []
    page = FootagePreview(out.name)
    with atomic_write(out / PHOTO_FILE) as photo_file:
        for job in jobs:
            questions = generate_photo_questions(job.story, job.plan.name, tasks, per_task)
            records += [question_record(job.plan.name, question) for question in questions]
            num_questions.update(question.task for question in questions)
            photo_file.write(json.dumps(_story_record(job)) + "\n")
            page.add(job.plan.name, job.story, questions)
    lines = ",\n".join(json.dumps(record) for record in records)
    atomic_write_text(out / QUESTION_FILE, f"[\n{lines}\n]\n")
    atomic_write_text(out / PREVIEW_FILE, page.html())
    seconds = sum(job.story.duration_seconds for job in jobs)
    return SplitTotals(len(jobs), seconds, dict(num_questions))


def _story_record(task: FootageTask) -> dict[str, Any]:
    """Return the truth about a video: clips with their parts of the footage, and photographs."""
    clips, start = [], 0
    for clip in task.story.clips:
        first = clip.footage.starts[clip.first_frame]
        bounds = (start, start + clip.ticks, first, first + clip.ticks)
        names = ("start", "end", "source_start", "source_end")
        seconds = (ticks / TICKS_PER_SECOND for ticks in bounds)
        clips.append({"file": str(clip.footage.path), **dict(zip(names, seconds, strict=True))})
        start += clip.ticks
    return {
        "video": f"{task.plan.name}.mp4",
        "seed": task.story.seed,
        "duration_seconds": task.story.duration_seconds,
        "clips": clips,
        "photos": [photo_record(photo) for photo in task.story.photos],
    }


def _summarize(
    out: Path, totals: SplitTotals, footage: FootageLibrary, library: PhotoLibrary, split: Split
) -> str:
    folder = quote(str(out))
    size = footage.clips[0].size
    num_photos = sum(map(len, library.photos.values()))
    return (
        f"{out}: {totals.num_videos} videos of {size} pixels"
        f" ({totals.duration_seconds / 3600:.2f} hours),"
        f" {sum(totals.num_questions.values())} questions on {len(totals.num_questions)} tasks;"
        f" {num_photos} photographs of {len(library.photos)} categories ({split})\n"
        f"footage: {len(footage.clips)} videos, {footage.num_encoded} of them encoded again\n"
        f"preview: {out}/{PREVIEW_FILE}\n"
        f"to pack: lit-hour pack {folder}/videos {folder}/{QUESTION_FILE} {folder}/shards"
    )
