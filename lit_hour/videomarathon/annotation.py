"""What is known of one video in the end: made from it by asking the teacher, written to a file, read back.

FOLDER/journal.jsonl     every answered request
FOLDER/annotation.json   the captions, events, summary and questions that follow from them; written last
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
from lit_hour.io.atomic import whole
from lit_hour.videomarathon.captions import caption_clips
from lit_hour.videomarathon.events import find_events, summarize
from lit_hour.videomarathon.filters import filter_questions
from lit_hour.videomarathon.question_generation import Context, generate_questions
from lit_hour.videomarathon.teacher import Teacher
from lit_hour.videomarathon.video_clips import VideoFile

VERSION = 1  # raise it when the same answers make another annotation
JOURNAL_NAME, ANNOTATION_NAME = "journal.jsonl", "annotation.json"
WITHOUT_EFFECT = (
    "serving",
    "max_failed_videos",
    "max_missing_videos",
)  # settings that change nothing in an annotation


@dataclass(frozen=True)
class Annotation:
    """One video, annotated.

    Attributes:
        video: path inside the folder of videos.
        set_aside: why nothing is asked about it; empty where something is.
        captions, events: as `captions.Caption` and `events.Event` have them.
        questions: records as question files hold them, without the video.
        dropped: records with the filter that dropped them, and its reason.
        num_answers, prompt_tokens, answer_tokens: of the teacher, over all runs.
    """

    video: str
    duration_seconds: float
    set_aside: str
    summary: str
    captions: list[dict[str, Any]]
    events: list[dict[str, Any]]
    questions: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    num_answers: int
    prompt_tokens: int
    answer_tokens: int


async def annotate_video(
    footage: VideoFile, teacher: Teacher, is_read: asyncio.Event
) -> Annotation:
    """Ask the teacher all that is to be known of a video.

    Args:
        is_read: set when the video is read and only questions about it are left.

    Raises:
        VideoError: the video cannot be read.
        InvalidResponseError: an answer cannot be used.
        TeacherError: no server answers.
    """
    captions = await caption_clips(footage, teacher, is_read)
    events = await find_events(footage, captions, teacher)
    set_aside, summary = "", ""
    questions: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    if len(events) < teacher.settings.min_events:
        set_aside = f"{len(events)} events, fewer than videomarathon.min_events={teacher.settings.min_events}"
    else:
        summary = await summarize(footage, events, teacher)
        material = Context(footage, captions, events, summary)
        sieve = await filter_questions(
            await generate_questions(material, teacher), material, teacher
        )
        questions = [question_record(question) for question in sieve.kept]
        dropped = [asdict(each) for each in sieve.dropped]
    return Annotation(
        video=footage.name,
        duration_seconds=footage.duration_seconds,
        set_aside=set_aside,
        summary=summary,
        captions=[asdict(caption) for caption in captions],
        events=[asdict(event) for event in events],
        questions=questions,
        dropped=dropped,
        **asdict(teacher.cache.usage),
    )


def fingerprint(video: Path, model: str, settings: VideoMarathonConfig) -> str:
    """Of everything that an annotation follows from besides the answers: with another one it is made anew."""
    counted = {
        name: value for name, value in asdict(settings).items() if name not in WITHOUT_EFFECT
    }
    source = [VERSION, video.stat().st_size, model, counted]
    return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()


def is_annotated(folder: Path, mark: str) -> bool:
    """Whether a folder holds an annotation of this fingerprint; its first bytes tell."""
    path = folder / ANNOTATION_NAME
    if not path.exists():
        return False
    with path.open(encoding="utf-8") as file:
        return file.read(len(_first_words(mark))) == _first_words(mark)


def write_annotation(folder: Path, mark: str, annotation: Annotation) -> None:
    """Write an annotation, whole or not at all."""
    with whole(folder / ANNOTATION_NAME) as file:
        file.write(
            _first_words(mark)
            + json.dumps(asdict(annotation), ensure_ascii=False, indent=1)[1:]
            + "\n"
        )


def read_annotation(folder: Path) -> Annotation:
    """Read what `write_annotation` wrote."""
    record = json.loads((folder / ANNOTATION_NAME).read_text(encoding="utf-8"))
    del record["fingerprint"]
    return Annotation(**record)


def _first_words(mark: str) -> str:
    """How the file of an annotation begins."""
    return f'{{\n "fingerprint": "{mark}",'
