"""Find the events of a video in its captions (`find_events`) and summarize it (`summarize`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_hour.errors import InvalidResponseError
from lit_hour.videomarathon.captions import ClipCaption, format_captions
from lit_hour.videomarathon.teacher import Teacher, TeacherRequest, list_schema, object_schema
from lit_hour.videomarathon.video_clips import VideoFile

SLACK_SECONDS = 1.0  # by which an event may end after the video, because the teacher rounds times

EVENTS_PROMPT = """\
Above, each part of this video is described. Find the events of the video: things that happen and
belong together, with a beginning and an end, in one part or over several. Tell each in one to three
sentences that can be understood alone, with its first and last second. List them in the order of
time. Leave out nothing that matters; invent nothing."""

SUMMARY_PROMPT = """\
Above, the events of this video are listed. Sum up the whole video in one paragraph: what it is
about, who and what is in it, how it begins, goes on and ends."""

EVENTS_SCHEMA = object_schema(
    events=list_schema(
        object_schema(
            start_seconds={"type": "number"},
            end_seconds={"type": "number"},
            text={"type": "string"},
        )
    )
)
SUMMARY_SCHEMA = object_schema(summary={"type": "string"})


@dataclass(frozen=True)
class VideoEvent:
    """Something that happens in a video; times in seconds."""

    start_seconds: float
    end_seconds: float
    text: str


async def find_events(
    video: VideoFile, captions: Sequence[ClipCaption], teacher: Teacher
) -> list[VideoEvent]:
    """Return the events of a video, in the order of time.

    Raises:
        InvalidResponseError, TeacherError: see `Teacher.request`.
    """

    def parse(answer: Any) -> list[VideoEvent]:
        events = [_parse_event(record, video.duration_seconds) for record in answer["events"]]
        return sorted(events, key=lambda event: (event.start_seconds, event.end_seconds))

    parts = (f"{video.prompt_heading()}\n\n{format_captions(captions)}", EVENTS_PROMPT)
    return await teacher.request(TeacherRequest("events", parts, EVENTS_SCHEMA), parse)


async def summarize(video: VideoFile, events: Sequence[VideoEvent], teacher: Teacher) -> str:
    """Return a summary of the whole video.

    Raises:
        InvalidResponseError, TeacherError: see `Teacher.request`.
    """

    def parse(answer: Any) -> str:
        summary = str(answer["summary"].strip())
        if not summary:
            raise InvalidResponseError("The summary is empty.")
        return summary

    parts = (f"{video.prompt_heading()}\n\n{format_events(events)}", SUMMARY_PROMPT)
    return await teacher.request(TeacherRequest("summary", parts, SUMMARY_SCHEMA), parse)


def format_events(events: Sequence[VideoEvent]) -> str:
    """Return events as text for a prompt."""
    return "\n".join(
        f"From {event.start_seconds:g} s to {event.end_seconds:g} s: {event.text}"
        for event in events
    )


def _parse_event(record: dict[str, Any], duration_seconds: float) -> VideoEvent:
    start, end, text = record["start_seconds"], record["end_seconds"], record["text"].strip()
    if not (0 <= start <= end <= duration_seconds + SLACK_SECONDS and text):
        raise InvalidResponseError(
            f"An event from {start} s to {end} s in a video of {duration_seconds:.1f} s is invalid:"
            f" {text[:80]!r}."
        )
    return VideoEvent(float(start), float(min(end, duration_seconds)), text)
