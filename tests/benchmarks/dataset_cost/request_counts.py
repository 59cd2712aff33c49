"""A duration in, what `annotate` asks about such a video out: requests, tokens and bytes on the disk.

Made-up videos of some durations are annotated for real, with their narrator as the teacher; between these durations the
numbers are taken to be linear. Tokens of text are a quarter of its letters. Tokens of a frame are those of Qwen2.5-VL.
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

LETTERS_OF_TOKEN = 4
PATCH_PIXELS = 28  # 14, and 2 x 2 of them become one token
MARKS_OF_FRAME = 2  # tokens before and after those of a picture
MEASURED_MINUTES = (3.0, 10.0, 30.0, 60.0)
COLUMNS = ("requests", "frames", "letters", "known_letters", "answer_letters")


def tokens_of_frame(height: int, width: int) -> int:
    """Of one picture, as Qwen2.5-VL cuts it: each side rounded to patches of 28 pixels.

    Source: `smart_resize` of transformers, with the bounds of the model's preprocessor_config.json (3136 to 12845056 pixels).
    """
    height, width = smart_resize(
        height, width, factor=PATCH_PIXELS, min_pixels=3136, max_pixels=12_845_056
    )
    return height * width // PATCH_PIXELS**2 + MARKS_OF_FRAME


class Counting:
    """The narrator, who also counts what is asked: `sums[form]` has the numbers of `COLUMNS`."""

    def __init__(self, teller: fake_teacher.FakeTeacher) -> None:
        self.teller = teller
        self.sums: dict[str, list[int]] = defaultdict(lambda: [0] * len(COLUMNS))
        self.heads: set[str] = set()

    def answer(self, body: dict) -> str:
        text = self.teller.answer(body)
        parts = body["messages"][-1]["content"]
        letters = sum(len(part["text"]) for part in parts if part["type"] == "text") + len(
            json.dumps(body["response_format"])
        )
        head = parts[0]["text"]
        num_known = (
            len(head) if head in self.heads and len(parts) > 1 else 0
        )  # servers keep beginnings that they have read
        self.heads.add(head)
        num_frames = sum(part["type"] == "image_url" for part in parts)
        sums = self.sums[body["response_format"]["json_schema"]["name"]]
        for index, number in enumerate((1, num_frames, letters, num_known, len(text))):
            sums[index] += number
        return text


@dataclass(frozen=True)
class Work:
    """What is asked about a video in one form: how often, and the tokens of one request."""

    num_requests: int
    prompt_tokens: float
    known_tokens: float
    answer_tokens: float


class Plans:
    """What is asked about videos of any duration."""

    def __init__(self, settings: VideoMarathonConfig, frame_tokens: int) -> None:
        self.frame_tokens = frame_tokens
        fake_teacher.PER_TASK = settings.questions_per_task
        measured = [measure(minutes, settings) for minutes in MEASURED_MINUTES]
        self.counts = np.array(
            [counts for counts, _ in measured], dtype=float
        )  # (durations, forms, columns)
        self.bytes = np.array([sizes for _, sizes in measured], dtype=float)  # (durations, 2)

    def of(self, minutes: float) -> dict[str, Work]:
        """By form, in the order in which they are asked."""
        works = {}
        for form, (requests, frames, letters, known, answer) in zip(
            REQUEST_KINDS, self._between(self.counts, minutes), strict=True
        ):
            tokens = (
                letters / LETTERS_OF_TOKEN + frames * self.frame_tokens,
                known / LETTERS_OF_TOKEN,
                answer / LETTERS_OF_TOKEN,
            )
            works[form] = Work(max(1, round(requests)), *(number / requests for number in tokens))
        return works

    def bytes_on_disk(self, minutes: float) -> np.ndarray:
        """Of the journal, and of the annotation with its page."""
        return self._between(self.bytes, minutes)

    @staticmethod
    def _between(numbers: np.ndarray, minutes: float) -> np.ndarray:
        right = min(max(bisect_left(MEASURED_MINUTES, minutes), 1), len(MEASURED_MINUTES) - 1)
        low, high = MEASURED_MINUTES[right - 1 : right + 1]
        share = (minutes - low) / (high - low)
        return (1 - share) * numbers[right - 1] + share * numbers[right]


def measure(minutes: float, settings: VideoMarathonConfig) -> tuple[list[list[int]], Sequence[int]]:
    """Annotate one made-up video: the counts of each form, and the bytes of the journal and of the annotation and page."""
    story = generate_story(int(minutes), 60 * minutes)
    counting = Counting(fake_teacher.FakeTeacher({"video.mp4": story}))
    with TemporaryDirectory() as folder, ChatServer(counting.answer) as server:
        videos, out = Path(folder, "videos"), Path(folder, "out")
        videos.mkdir()
        render_story(story, videos / "video.mp4", 32, 1)
        small = replace(
            settings, image_size=32
        )  # how large frames are changes nothing but their tokens
        annotate(videos, out, [server.url], "narrator", small)
        journal, *others = (
            out / "videos/video.mp4" / name
            for name in ("responses.jsonl", "annotation.json", "index.html")
        )
        sizes = (journal.stat().st_size, sum(path.stat().st_size for path in others))
    return [counting.sums[form] for form in REQUEST_KINDS], sizes
