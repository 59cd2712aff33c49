"""Requests, tokens and bytes on disk that annotating a video takes, by its duration.

Synthetic videos of some durations are annotated with a fake teacher, and the counts are
interpolated linearly between these durations. A token of text is taken to have four characters, and
a frame to have as many tokens as in Qwen2.5-VL.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.synthetic.render import render_story
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.videomarathon.annotate import annotate
from lit_hour.videomarathon.teacher import REQUEST_KINDS
from tests.videomarathon import fake_teacher
from tests.videomarathon.chat_server import ChatServer

CHARACTERS_PER_TOKEN = 4
MERGED_PATCH_PIXELS = 28  # patches of 14 pixels, of which 2 x 2 become one token
BOUNDARY_TOKENS = 2  # before and after the tokens of an image
MEASURED_MINUTES = (3.0, 10.0, 30.0, 60.0)
COLUMNS = ("requests", "frames", "characters", "cached_characters", "answer_characters")


def tokens_per_frame(height: int, width: int) -> int:
    """Return the tokens of an image in Qwen2.5-VL, with sides rounded to multiples of 28 pixels.

    Source: `smart_resize` of transformers, with the bounds of the model's preprocessor_config.json
    (3136 to 12845056 pixels).
    """
    height, width = smart_resize(
        height, width, factor=MERGED_PATCH_PIXELS, min_pixels=3136, max_pixels=12_845_056
    )
    return height * width // MERGED_PATCH_PIXELS**2 + BOUNDARY_TOKENS


class CountingTeacher:
    """A fake teacher that counts requests: `sums[kind]` has the numbers of `COLUMNS`."""

    def __init__(self, teacher: fake_teacher.FakeTeacher) -> None:
        self.teacher = teacher
        self.sums: dict[str, list[int]] = defaultdict(lambda: [0] * len(COLUMNS))
        self.prefixes: set[str] = set()

    def answer(self, body: dict) -> str:
        text = self.teacher.answer(body)
        parts = body["messages"][-1]["content"]
        num_characters = sum(len(part["text"]) for part in parts if part["type"] == "text")
        num_characters += len(json.dumps(body["response_format"]))
        prefix = parts[0]["text"]
        is_cached = prefix in self.prefixes and len(parts) > 1  # servers cache prompt prefixes
        self.prefixes.add(prefix)
        num_frames = sum(part["type"] == "image_url" for part in parts)
        counts = (1, num_frames, num_characters, len(prefix) * is_cached, len(text))
        sums = self.sums[body["response_format"]["json_schema"]["name"]]
        for index, count in enumerate(counts):
            sums[index] += count
        return text


@dataclass(frozen=True)
class Workload:
    """The requests of one kind about one video; tokens are per request."""

    num_requests: int
    prompt_tokens: float
    cached_tokens: float
    answer_tokens: float


class WorkloadTable:
    """Workloads of videos of any duration, interpolated between measured ones."""

    def __init__(self, config: VideoMarathonConfig, frame_tokens: int) -> None:
        self.frame_tokens = frame_tokens
        fake_teacher.PER_TASK = config.questions_per_task
        measured = [measure(minutes, config) for minutes in MEASURED_MINUTES]
        counts = [counts for counts, _ in measured]
        self.counts = np.array(counts, dtype=float)  # (durations, kinds, columns)
        self.bytes = np.array([sizes for _, sizes in measured], dtype=float)  # (durations, 2)

    def at(self, minutes: float) -> dict[str, Workload]:
        """Return the workload of a video by request kind, in the order of sending."""
        workloads: dict[str, Workload] = {}
        for kind, (requests, frames, characters, cached, answer) in zip(
            REQUEST_KINDS, self._interpolate(self.counts, minutes), strict=True
        ):
            tokens = (
                characters / CHARACTERS_PER_TOKEN + frames * self.frame_tokens,
                cached / CHARACTERS_PER_TOKEN,
                answer / CHARACTERS_PER_TOKEN,
            )
            per_request = (number / requests for number in tokens)
            workloads[kind] = Workload(max(1, round(requests)), *per_request)
        return workloads

    def bytes_on_disk(self, minutes: float) -> np.ndarray:
        """Return the bytes `(2,)` of the cached responses, and of the annotation with its page."""
        return self._interpolate(self.bytes, minutes)

    @staticmethod
    def _interpolate(numbers: np.ndarray, minutes: float) -> np.ndarray:
        right = min(max(bisect_left(MEASURED_MINUTES, minutes), 1), len(MEASURED_MINUTES) - 1)
        low, high = MEASURED_MINUTES[right - 1 : right + 1]
        share = (minutes - low) / (high - low)
        return (1 - share) * numbers[right - 1] + share * numbers[right]


def measure(minutes: float, config: VideoMarathonConfig) -> tuple[list[list[int]], Sequence[int]]:
    """Annotate one synthetic video.

    Returns:
        The counts of `COLUMNS` per request kind; bytes of responses, and of annotation and page.
    """
    story = generate_story(int(minutes), 60 * minutes)
    teacher = CountingTeacher(fake_teacher.FakeTeacher({"video.mp4": story}))
    with TemporaryDirectory() as folder, ChatServer(teacher.answer) as server:
        videos, out = Path(folder, "videos"), Path(folder, "out")
        videos.mkdir()
        render_story(story, videos / "video.mp4", 32, 1)
        small = replace(config, image_size=32)  # the frame size only changes the frame tokens
        annotate(videos, out, [server.url], "teacher", small)
        names = ("responses.jsonl", "annotation.json", "index.html")
        responses, *others = (out / "videos/video.mp4" / name for name in names)
        sizes = (responses.stat().st_size, sum(path.stat().st_size for path in others))
    return [teacher.sums[kind] for kind in REQUEST_KINDS], sizes
