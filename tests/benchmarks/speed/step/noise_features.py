"""Noise -> shards of features, as `python -m lit_hour encode` leaves them: what a pre-encoded run reads from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lit_hour.config.schema import Config
from lit_hour.data.features.format import Encoding, StoredTokens, deciding_settings
from lit_hour.data.features.source import Place
from lit_hour.data.features.writer import FeatureFolder
from lit_hour.data.packing.shard_writer import subject_json
from lit_hour.data.questions.record import Kind, Subject
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.types import Question

ASKED, SAID = (
    "What does the cook do with the onions before the guests arrive?",
    "She cuts them into small pieces.",
)


class NoiseVideos:
    """Videos of one length in one shard, as far as encoding has to know of them."""

    cost_unit = "frame"
    num_shards = 1

    def __init__(self, num_videos: int, num_frames: int, config: Config) -> None:
        self._num_videos, self._num_frames = num_videos, num_frames
        self.settings: dict[str, Any] = deciding_settings(config)

    def fingerprint(self, shard: int) -> str:
        return f"noise {self._num_videos} {self._num_frames}"

    def lost(self, shard: int) -> tuple[()]:
        return ()

    def subjects(self, shard: int) -> list[tuple[Kind, str]]:
        return [("video", f"noise_{number}.mp4") for number in range(self._num_videos)]

    def cost(self, place: Place) -> int:
        return self._num_frames


def write_noise(
    folder: Path, num_videos: int, num_frames: int, config: Config, vision: VisionEncoder
) -> None:
    """Fill a folder with videos of a frame a second, each with as many questions as a sample has."""
    encoding = Encoding(
        "bf16", vision.tokens_per_frame, vision.dim, deciding_settings(config), vision.digest()
    )
    target = FeatureFolder(folder, NoiseVideos(num_videos, num_frames, config), encoding, 0)  # type: ignore[arg-type]
    target.prepare()
    for number in range(num_videos):
        tokens = torch.randn(
            num_frames, vision.tokens_per_frame, vision.dim
        ).bfloat16()  # (frames, tokens, vision_dim)
        questions = tuple(
            Question(f"{number}-{asked}", "", "open_ended", ASKED, SAID)
            for asked in range(config.data.questions_per_sample)
        )
        subject = Subject("video", (f"noise_{number}.mp4",), 0, questions)
        times = [float(second) for second in range(num_frames)]
        target.keep(
            Place(0, number),
            StoredTokens(tokens, None),
            subject_json(subject, float(num_frames), times),
        )
    target.assemble(0)
    target.finish()
