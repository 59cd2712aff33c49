"""Caption each clip of a video under six aspects: `caption_clips`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_hour.errors import InvalidResponseError
from lit_hour.videomarathon.llm_client import task_group
from lit_hour.videomarathon.teacher import Teacher, TeacherRequest, object_schema
from lit_hour.videomarathon.video_clips import Clip, VideoFile, read_clips

CAPTION_FIELDS = {  # of a caption, with the instruction for each
    "temporality": "what happens when, and in which order, with the times at which it begins and"
    " ends",
    "spatiality": "where people and things are, in the picture and relative to one another, and how"
    " that changes",
    "object": "which people and things are seen: kind, number, color, size, other marks, text that"
    " can be read",
    "action": "who does what, to whom or with what",
    "scene": "the place, its light and mood, and each change to another place",
    "overall": "the clip as a whole, in two to four sentences",
}
CAPTION_SCHEMA = object_schema(**{name: {"type": "string"} for name in CAPTION_FIELDS})
CAPTION_PROMPT = """\
Below are frames of one part of this video, each after the second of the video at which it is seen.
Describe the part under six aspects. Give times in seconds of the whole video. Name people and
things so that they can be recognized in other parts, by how they look and not by guessed names.
Leave out what cannot be seen.
""" + "\n".join(f"{name}: {instruction}." for name, instruction in CAPTION_FIELDS.items())


@dataclass(frozen=True)
class ClipCaption:
    """Caption of a clip; times in seconds of the whole video."""

    start_seconds: float
    end_seconds: float
    temporality: str
    spatiality: str
    object: str
    action: str
    scene: str
    overall: str


async def caption_clips(
    video: VideoFile, teacher: Teacher, is_read: asyncio.Event
) -> list[ClipCaption]:
    """Return the captions of all clips, in the order of time.

    A clip is read when the requests about the clips before it have been sent, so that frames do not
    pile up in memory.

    Args:
        video: the video.
        teacher: the model that writes the captions.
        is_read: set when the whole video has been read; some requests may still be open then.

    Raises:
        VideoError: the video cannot be read.
        InvalidResponseError, TeacherError: see `Teacher.request`.
    """
    clips = read_clips(video, teacher.config)
    async with task_group() as group:
        tasks = []
        while clip := await asyncio.to_thread(next, clips, None):
            tasks.append(group.create_task(_caption_clip(clip, video, teacher)))
            await teacher.wait_until_sent("clip_caption")
        is_read.set()
    return [task.result() for task in tasks]


def format_captions(captions: Sequence[ClipCaption]) -> str:
    """Return captions as text for a prompt."""
    return "\n\n".join(
        f"From {caption.start_seconds:g} s to {caption.end_seconds:g} s\n"
        + "\n".join(f"{name}: {getattr(caption, name)}" for name in CAPTION_FIELDS)
        for caption in captions
    )


async def _caption_clip(clip: Clip, video: VideoFile, teacher: Teacher) -> ClipCaption:
    start, end = clip.interval

    def parse(answer: Any) -> ClipCaption:
        texts = {name: answer[name].strip() for name in CAPTION_FIELDS}
        if not texts["overall"]:
            raise InvalidResponseError(f"The caption from {start:g} s to {end:g} s is empty.")
        return ClipCaption(start, end, **texts)

    heading = f"{video.prompt_heading()}\nPart: {start:g} s to {end:g} s\n\n"
    frames = zip(clip.timestamps, clip.jpegs, strict=True)
    parts = [part for seconds, jpeg in frames for part in (f"{seconds:g} s:", jpeg)]
    request = TeacherRequest("clip_caption", (heading + CAPTION_PROMPT, *parts), CAPTION_SCHEMA)
    return await teacher.request(request, parse)
