"""Tiny encoded videos, images and question files to pack, and an order without shuffling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.sample_order import MixedOrder

VIDEO = VideoConfig(min_frames=4, max_frames=6, image_size=32)
PACK = PackConfig(videos_per_shard=2, num_workers=1)
VIDEO_NAMES = ("a.mp4", "b.mp4", "c.1.mp4", "more/d e.mp4", "more/f.mp4")
IMAGE_SIZES = {
    "photo.jpg": (100, 60),
    "more/chart.png": (40, 90),
    "map.webp": (64, 64),
    "dot.bmp": (1, 1),
}  # width and height


class IdentityOrder(MixedOrder):
    """An order of one source with one shard: samples come in the order of the shard."""

    SOURCE = "a"

    def __init__(self, num_samples: int, seed: int = 0) -> None:
        self.num_samples, self.seed = num_samples, seed

    def __getitem__(self, position: int) -> tuple[str, int, int]:
        return self.SOURCE, 0, position


def conversation(*questions: str, **keys: Any) -> dict[str, Any]:
    """Return a record of LLaVA's format."""
    turns = [
        {"from": role, "value": text}
        for question in questions
        for role, text in (("human", question), ("gpt", "So it is."))
    ]
    return {"conversations": turns, **keys}


MIXED_RECORDS: list[dict[str, Any]] = [
    {"video": "clip.mp4", "question": "What moves?", "answer": "A gradient."},
    conversation("<image>\nWhat is it?", "Where?", "When?", image="photo.jpg"),
    {
        "images": ["photo.jpg", "more/chart.png"],
        "question": "Is <image> larger than <image>?",
        "answer": "Yes.",
    },
    conversation("How are you?", "And you?", "And they?"),
    {"image": "more/chart.png", "question": "Which?", "options": ["red", "blue"], "answer": "B"},
    conversation(
        "What are they?", "All of them?", "Sure?", image=["map.webp", "dot.bmp", "photo.jpg"]
    ),
    {"question": "What is two and two?", "answer": "Four."},
]
MIXED_KEYS = [
    "clip",
    "more/chart",
    "photo",
    "record_00000003",
    "record_00000004",
    "record_00000006",
    "record_00000007",
]


def write_video(
    path: Path, num_seconds: int, frames_per_second: int = 5, size_pixels: int = 48
) -> None:
    """Write a moving gradient, encoded with MPEG-4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, size_pixels, dtype=np.uint8)
    image = np.stack(
        np.broadcast_arrays(ramp, ramp[:, None], ramp[::-1]), axis=-1
    )  # (size, size, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=frames_per_second)
        stream.width = stream.height = size_pixels
        for number in range(num_seconds * frames_per_second):
            frame = av.VideoFrame.from_ndarray(np.roll(image, number, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_mixed_files(folder: Path) -> None:
    """Write the video and the images of `MIXED_RECORDS`."""
    write_video(folder / "clip.mp4", num_seconds=5)
    for seed, (name, (width, height)) in enumerate(IMAGE_SIZES.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_records(file: Path, records: list[dict[str, Any]]) -> Path:
    """Write a question file."""
    file.write_text(json.dumps(records))
    return file


def ask_about(videos: list[str] | tuple[str, ...], file: Path) -> Path:
    """Write a question file with one question about each video."""
    return write_records(
        file, [{"video": name, "question": "What?", "answer": "It."} for name in videos]
    )


def shard_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder of shards by their names, without locks."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
