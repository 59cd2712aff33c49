"""Captions of clips in, what happens in the whole video out: its events, and a summary of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_hour.errors import AnswerError
from lit_hour.videomarathon.captions import Caption, tell_captions
from lit_hour.videomarathon.teacher import Request, Teacher, list_schema, object_schema
from lit_hour.videomarathon.video_clips import Footage

SLACK_SECONDS = 1.0  # that an event may end after the video: times are told rounded

FIND = """Above, each part of this video is described. Find the events of the video: things that happen and belong together,
with a beginning and an end, in one part or over several. Tell each in one to three sentences that can be understood alone,
with its first and last second. List them in the order of time. Leave out nothing that matters; invent nothing."""

SUM_UP = """Above, the events of this video are listed. Sum up the whole video in one paragraph: what it is about, who and what
is in it, how it begins, goes on and ends."""

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
class Event:
    """Something that happens in a video."""

    start_seconds: float
    end_seconds: float
    text: str


async def find_events(
    footage: Footage, captions: Sequence[Caption], teacher: Teacher
) -> list[Event]:
    """The events of a video, in the order of time.

    Raises:
        AnswerError, TeacherError: as `Teacher.ask`.
    """

    def read(answer: Any) -> list[Event]:
        events = [_read_event(record, footage.duration_seconds) for record in answer["events"]]
        return sorted(events, key=lambda event: (event.start_seconds, event.end_seconds))

    parts = (f"{footage.heading()}\n\n{tell_captions(captions)}", FIND)
    return await teacher.ask(Request("events", parts, EVENTS_SCHEMA), read)


async def sum_up(footage: Footage, events: Sequence[Event], teacher: Teacher) -> str:
    """A summary of the whole video.

    Raises:
        AnswerError, TeacherError: as `Teacher.ask`.
    """

    def read(answer: Any) -> str:
        if not answer["summary"].strip():
            raise AnswerError("it is empty")
        return str(answer["summary"].strip())

    parts = (f"{footage.heading()}\n\n{tell_events(events)}", SUM_UP)
    return await teacher.ask(Request("summary", parts, SUMMARY_SCHEMA), read)


def tell_events(events: Sequence[Event]) -> str:
    """The events as the teacher reads them again."""
    return "\n".join(
        f"From {event.start_seconds:g} s to {event.end_seconds:g} s: {event.text}"
        for event in events
    )


def _read_event(record: dict[str, Any], duration_seconds: float) -> Event:
    start, end, text = record["start_seconds"], record["end_seconds"], record["text"].strip()
    if not (0 <= start <= end <= duration_seconds + SLACK_SECONDS and text):
        raise AnswerError(
            f"an event from {start} s to {end} s cannot be in a video of {duration_seconds:.1f} s: {text[:80]!r}"
        )
    return Event(float(start), float(min(end, duration_seconds)), text)
