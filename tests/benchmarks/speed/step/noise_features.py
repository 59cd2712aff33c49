"""Write feature shards of noise, in the format of `lit-hour extract-features`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lit_hour.config.data import SourceConfig
from lit_hour.config.schema import Config
from lit_hour.data.features.format import FeatureMetadata, StoredTokens, feature_config
from lit_hour.data.features.source import SampleRef
from lit_hour.data.features.writer import FeatureWriter
from lit_hour.data.packing.decode_worker import SampleSummary
from lit_hour.data.packing.shard_writer import sample_json
from lit_hour.data.questions.record import Modality, SampleSpec
from lit_hour.data.shards.shard_index import FileStamp
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.types import Question

QUESTION = "What does the cook do with the onions before the guests arrive?"
ANSWER = "She cuts them into small pieces."


class NoiseVideos:
    """Feature source of videos of one length in one shard."""

    cost_unit = "frame"
    num_shards = 1

    def __init__(self, num_videos: int, num_frames: int, config: Config) -> None:
        self._num_videos, self._num_frames = num_videos, num_frames
        self.config: dict[str, Any] = feature_config(config)
        self.origin = SourceConfig("noise", kind="packed")  # frames cannot be read again

    def fingerprint(self, shard: int) -> str:
        return f"noise {self._num_videos} {self._num_frames}"

    def stamp_files(self, shard: int) -> dict[str, FileStamp]:
        return {}

    def skipped(self, shard: int) -> tuple[()]:
        return ()

    def samples(self, shard: int) -> list[tuple[Modality, str]]:
        return [("video", f"noise_{number}.mp4") for number in range(self._num_videos)]

    def cost(self, ref: SampleRef) -> int:
        return self._num_frames


def write_noise(
    folder: Path,
    num_videos: int,
    num_frames: int,
    config: Config,
    vision: VisionEncoder,
    num_questions: int | None = None,
) -> None:
    """Write videos at one frame per second, each by default with the questions of one sample.

    An encoder on the meta device has no digest; `take_steps` compares none.
    """
    is_meta = next(vision.parameters()).is_meta
    digest = "0" * 64 if is_meta else vision.digest()
    metadata = FeatureMetadata(
        "bf16", vision.tokens_per_frame, vision.dim, feature_config(config), digest
    )
    target = FeatureWriter(folder, NoiseVideos(num_videos, num_frames, config), metadata, 0)  # type: ignore[arg-type]
    target.open()
    for number in range(num_videos):
        shape = num_frames, vision.tokens_per_frame, vision.dim
        tokens = torch.randn(shape).bfloat16()  # (frames, tokens, vision_dim)
        questions = tuple(
            Question(f"{number}-{index}", "", "open_ended", QUESTION, ANSWER)
            for index in range(num_questions or config.data.questions_per_sample)
        )
        sample = SampleSpec("video", (f"noise_{number}.mp4",), 0, questions)
        timestamps = tuple(float(second) for second in range(num_frames))
        target.save(
            SampleRef(0, number),
            StoredTokens(tokens, None),
            sample_json(sample, SampleSummary(float(num_frames), timestamps)),
        )
    target.write_shard(0)
    target.write_totals()
