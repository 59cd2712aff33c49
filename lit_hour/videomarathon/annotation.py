"""Annotate one video (`annotate_video`) and store the result (`write_annotation`).

FOLDER/responses.jsonl   every response of the teacher
FOLDER/annotation.json   captions, events, summary and questions; written last
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.data.questions.record import question_record
from lit_hour.errors import TeacherError
from lit_hour.io.atomic import atomic_write
from lit_hour.videomarathon.captions import caption_clips
from lit_hour.videomarathon.events import find_events, summarize
from lit_hour.videomarathon.filters import FilterResult, filter_questions
from lit_hour.videomarathon.question_generation import Context, generate_questions
from lit_hour.videomarathon.teacher import Teacher
from lit_hour.videomarathon.video_clips import VideoFile

VERSION = 2  # raise it when the same responses give another annotation
CACHE_NAME, ANNOTATION_NAME = "responses.jsonl", "annotation.json"
# Sections and settings that do not change an annotation.
IRRELEVANT_SETTINGS = (
    "client",
    "descriptions",
    "max_failed_videos",
    "max_missing_videos",
    "max_invalid_records",
)


@dataclass(frozen=True)
class Annotation:
    """Annotation of one video.

    Attributes:
        video: path inside the folder of videos.
        duration_seconds: of the video.
        skip_reason: why there are no questions about it; empty if there are.
        summary: of the whole video; empty if skipped.
        captions: as dicts of `captions.ClipCaption`.
        events: as dicts of `events.VideoEvent`.
        questions: records of a question file, without the video.
        dropped: as dicts of `filters.Dropped`.
        num_responses: of the teacher, over all runs.
        prompt_tokens: in these responses' requests.
        completion_tokens: in these responses.
    """

    video: str
    duration_seconds: float
    skip_reason: str
    summary: str
    captions: list[dict[str, Any]]
    events: list[dict[str, Any]]
    questions: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    num_responses: int
    prompt_tokens: int
    completion_tokens: int


async def annotate_video(video: VideoFile, teacher: Teacher, is_read: asyncio.Event) -> Annotation:
    """Caption a video, find its events, and generate and filter questions about it.

    Args:
        video: the video.
        teacher: the model that annotates it.
        is_read: set when the video has been read and only questions about it are left.

    Raises:
        VideoError: the video cannot be read.
        InvalidResponseError: a response is not usable.
        TeacherError: no server answers.
    """
    captions = await caption_clips(video, teacher, is_read)
    events = await find_events(video, captions, teacher)
    skip_reason, summary, result = "", "", FilterResult()
    if len(events) < teacher.config.min_events:
        minimum = f"videomarathon.min_events={teacher.config.min_events}"
        skip_reason = f"{len(events)} events, fewer than {minimum}"
    else:
        summary = await summarize(video, events, teacher)
        context = Context(video, captions, events, summary)
        drafts = await generate_questions(context, teacher)
        result = await filter_questions(drafts, context, teacher)
    return Annotation(
        video=video.name,
        duration_seconds=video.duration_seconds,
        skip_reason=skip_reason,
        summary=summary,
        captions=[asdict(caption) for caption in captions],
        events=[asdict(event) for event in events],
        questions=[question_record(question) for question in result.kept],
        dropped=[asdict(dropped) for dropped in result.dropped],
        **asdict(teacher.cache.usage),
    )


def fingerprint(video: Path, model: str, config: VideoMarathonConfig) -> str:
    """Return a hash of everything besides the responses that an annotation depends on."""
    settings = {
        name: value for name, value in asdict(config).items() if name not in IRRELEVANT_SETTINGS
    }
    source = [VERSION, video.stat().st_size, model, settings]
    return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()


def write_annotation(folder: Path, fingerprint: str, annotation: Annotation) -> None:
    """Write an annotation with its fingerprint, atomically."""
    record = {"fingerprint": fingerprint, **asdict(annotation)}
    with atomic_write(folder / ANNOTATION_NAME) as file:
        file.write(json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def read_annotation(folder: Path, fingerprint: str) -> Annotation | None:
    """Return the annotation in a folder, or None if it is missing or has another fingerprint.

    Raises:
        TeacherError: the file is damaged.
    """
    path = folder / ANNOTATION_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.pop("fingerprint") != fingerprint:
            return None
        return Annotation(**record)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TeacherError(
            f"{path} is damaged ({error}). Delete it and run the same command again."
        ) from error
