"""Files and questions of every kind: a video, pictures in each format, sets of them, and texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.tiny import write_video

PICTURES = {
    "photo.jpg": (100, 60),
    "more/chart.png": (40, 90),
    "map.webp": (64, 64),
    "dot.bmp": (1, 1),
}


def talk(*asked: str, **keys: Any) -> dict[str, Any]:
    """A conversation as LLaVA's files have it."""
    turns = [
        {"from": role, "value": text}
        for each in asked
        for role, text in (("human", each), ("gpt", "So it is."))
    ]
    return {"conversations": turns, **keys}


RECORDS: list[dict[str, Any]] = [
    {"video": "clip.mp4", "question": "What moves?", "answer": "A gradient."},
    talk("<image>\nWhat is it?", "Where?", "When?", image="photo.jpg"),
    {
        "images": ["photo.jpg", "more/chart.png"],
        "question": "Is <image> larger than <image>?",
        "answer": "Yes.",
    },
    talk("How are you?", "And you?", "And they?"),
    {"image": "more/chart.png", "question": "Which?", "options": ["red", "blue"], "answer": "B"},
    talk("What are they?", "All of them?", "Sure?", image=["map.webp", "dot.bmp", "photo.jpg"]),
    {"question": "What is two and two?", "answer": "Four."},
]
KEYS = [
    "clip",
    "more/chart",
    "photo",
    "record_00000003",
    "record_00000004",
    "record_00000006",
    "record_00000007",
]


def write_files(folder: Path) -> None:
    """The files that `RECORDS` ask about."""
    write_video(folder / "clip.mp4", num_seconds=5)
    for seed, (name, (width, height)) in enumerate(PICTURES.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_records(file: Path, records: list[dict[str, Any]]) -> Path:
    """A question file."""
    file.write_text(json.dumps(records))
    return file
