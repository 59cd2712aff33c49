"""What a tiny model learns so that it can be a teacher: the real requests about a few clips, and one answer for each form."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from lit_hour.config.videomarathon import FilterConfig, VideoMarathonConfig
from lit_hour.videomarathon.annotate import annotate
from lit_hour.videomarathon.captions import CAPTION_FIELDS
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.tiny_model import Lesson

SETTINGS = VideoMarathonConfig(
    image_size=32, max_new_tokens=64, response_format="prompt", filters=FilterConfig(blind_trials=2)
)
WHOLE_WAY = replace(SETTINGS, min_events=1)  # for the one event that is always told

_INTERVAL = {"start_seconds": 0, "end_seconds": 1}
_OPEN_ENDED = {
    "question": "What is seen at the beginning?",
    "answer": "a room",
    "evidence": [_INTERVAL],
}
_CHOICE = {
    "question": "Which colour has the door on the left?",
    "answer": "green",
    "wrong_options": ["red", "blue", "grey"],
    "evidence": [_INTERVAL],
}
ANSWERS: tuple[dict[str, Any], ...] = (
    {side: f"the {side} of it" for side in CAPTION_FIELDS},
    {"events": [{**_INTERVAL, "text": "Something is seen."}]},
    {"summary": "A short clip."},
    {"open_ended": [_OPEN_ENDED], "multiple_choice": [_CHOICE]},
    {"verdicts": [{"number": 1, "verdict": "supported"}, {"number": 2, "verdict": "supported"}]},
    {"letter": "B"},
)
COLOURS = {"black": 0, "white": 255}  # of a picture, which only the picture tells


def answer_by_form(body: dict[str, Any]) -> str:
    """The answer that has the properties of the schema with which a request ends."""
    words = body["messages"][-1]["content"][-1]["text"]
    wanted = json.loads(words[words.index("{") :])["properties"]
    return json.dumps(next(answer for answer in ANSWERS if answer.keys() == wanted.keys()))


def ask_for_colour(name: str) -> dict[str, Any]:
    """A request that cannot be answered without its picture."""
    file = io.BytesIO()
    Image.new("L", (48, 32), COLOURS[name]).save(file, "JPEG")
    picture = {"url": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}
    parts = [
        {"type": "text", "text": "Is it black or white?"},
        {"type": "image_url", "image_url": picture},
    ]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 64}


def collect_lessons(clips: Path, few: Path, out: Path) -> list[Lesson]:
    """What is asked about all clips until their events are told, and about a few of them up to the end."""
    with ChatServer(answer_by_form) as server:
        for folder, settings in ((clips, SETTINGS), (few, WHOLE_WAY)):
            annotate(
                folder,
                out / folder.name,
                [server.url],
                "scripted",
                replace(settings, max_failed_videos=1),
            )
    bodies = [json.loads(words) for words in sorted(answered.body for answered in server.answered)]
    pictures = [Lesson(ask_for_colour(name), name) for name in COLOURS]
    return pictures + [Lesson(body, answer_by_form(body)) for body in bodies]
