"""A video in, a caption of each of its clips out: what the clip shows, told from six sides."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_hour.errors import InvalidResponseError
from lit_hour.videomarathon.llm_client import task_group
from lit_hour.videomarathon.teacher import Teacher, TeacherRequest, object_schema
from lit_hour.videomarathon.video_clips import Clip, VideoFile, read_clips

CAPTION_FIELDS = {  # of a caption, and what each has to tell
    "temporality": "what happens when, and in which order, with the times at which it begins and ends",
    "spatiality": "where people and things are, in the picture and to one another, and how that changes",
    "object": "which people and things are seen: kind, number, colour, size, other marks, text that can be read",
    "action": "who does what, to whom or with what",
    "scene": "the place, its light and mood, and each change to another place",
    "overall": "the clip as a whole, in two to four sentences",
}

INSTRUCTION = """Below are frames of one part of this video, each after the second of the video at which it is seen.
Describe the part from six sides. Give times in seconds of the whole video. Name people and things so that they can be
recognised in other parts, by how they look and not by guessed names. Leave out what cannot be seen.
{sides}"""


@dataclass(frozen=True)
class ClipCaption:
    """What one clip shows; times in seconds of the whole video."""

    start_seconds: float
    end_seconds: float
    temporality: str
    spatiality: str
    object: str
    action: str
    scene: str
    overall: str


async def caption_clips(
    footage: VideoFile, teacher: Teacher, is_read: asyncio.Event
) -> list[ClipCaption]:
    """The caption of each clip, in the order of time. A clip is read when those that were read before are on their way.

    Args:
        is_read: set when the whole video is read, and some of its clips may still be asked about.

    Raises:
        VideoError: the video cannot be read.
        InvalidResponseError, TeacherError: as `Teacher.request`.
    """
    clips = read_clips(footage, teacher.settings)
    async with task_group() as group:
        asked = []
        while clip := await asyncio.to_thread(next, clips, None):
            asked.append(group.create_task(_caption(clip, footage, teacher)))
            await teacher.wait_until_sent("clip_caption")
        is_read.set()
    return [task.result() for task in asked]


def format_captions(captions: Sequence[ClipCaption]) -> str:
    """The captions as the teacher reads them again."""
    return "\n\n".join(
        f"From {caption.start_seconds:g} s to {caption.end_seconds:g} s\n"
        + "\n".join(f"{side}: {getattr(caption, side)}" for side in CAPTION_FIELDS)
        for caption in captions
    )


async def _caption(clip: Clip, footage: VideoFile, teacher: Teacher) -> ClipCaption:
    start, end = clip.interval

    def read(answer: Any) -> ClipCaption:
        texts = {side: answer[side].strip() for side in CAPTION_FIELDS}
        if not texts["overall"]:
            raise InvalidResponseError(
                f"it does not say what is seen from {start:g} s to {end:g} s"
            )
        return ClipCaption(start, end, **texts)

    heading = f"{footage.prompt_heading()}\nPart: {start:g} s to {end:g} s\n\n"
    instruction = INSTRUCTION.format(
        sides="\n".join(f"{side}: {meaning}." for side, meaning in CAPTION_FIELDS.items())
    )
    pictures = zip(clip.seconds, clip.jpegs, strict=True)
    frames = [part for seconds, picture in pictures for part in (f"{seconds:g} s:", picture)]
    schema = object_schema(**{side: {"type": "string"} for side in CAPTION_FIELDS})
    return await teacher.request(
        TeacherRequest("clip_caption", (heading + instruction, *frames), schema), read
    )
