"""The longest sample that a plan is made for, and a micro-batch of such samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_hour.config.model import num_frame_times, num_kept_frames
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.types import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    Batch,
    Features,
    Frames,
    TiledImage,
    Visual,
)

SampleKind = Literal["video", "features", "image"]
SAMPLE_KINDS: tuple[SampleKind, ...] = ("video", "features", "image")
HOUR_FRAMES = 3600  # the longest videos of VideoMarathon have an hour
MIN_TEXT_TOKENS = 16
TOKEN_ID = 1  # of all text; the values of tokens change nothing
FRAME_TIME_TOKENS = 9  # of "<3599.0 s>" in Qwen's tokenizer, which has a token for each digit


@dataclass(frozen=True)
class LongestSample:
    """Sizes of a sample.

    Attributes:
        kind: frames that the vision encoder encodes, stored features of a video, or one image in
            the largest grid of tiles.
        num_frames: of a video.
        num_text_tokens: of each conversation; the second half of them is learned.
    """

    kind: SampleKind
    num_frames: int
    num_text_tokens: int

    @classmethod
    def from_config(
        cls, config: Config, kind: SampleKind, num_frames: int | None, num_text_tokens: int
    ) -> LongestSample:
        """Take what is not given from the settings of a run.

        Args:
            config: bounds the frames.
            kind: of the sample.
            num_frames: None for `video.max_frames`, and at most an hour.
            num_text_tokens: of each conversation.

        Raises:
            ConfigError: the sample is longer than the settings allow, or too short.
        """
        most = config.video.max_frames
        if num_frames is None:
            num_frames = min(most, HOUR_FRAMES)
        if not 1 <= num_frames <= most:
            raise ConfigError(f"--frames {num_frames} must be from 1 to video.max_frames={most}")
        most = config.text.max_tokens
        if not MIN_TEXT_TOKENS <= num_text_tokens <= most:
            raise ConfigError(
                f"--text-tokens {num_text_tokens} must be from {MIN_TEXT_TOKENS} to"
                f" text.max_tokens={most}"
            )
        return cls(kind, num_frames, num_text_tokens)

    def describe(self, config: Config) -> str:
        """Return the sample in words."""
        text = f"{self.num_text_tokens} text tokens, half of them learned"
        if num_texts := conversations_per_sample(config) - 1:
            text = f"{num_texts + 1} conversations of {text}"
        if self.kind == "image":
            tiles = config.image.max_grid**2
            return f"an image of {tiles} tiles, {text}"
        what = "frames" if self.kind == "video" else "frames of stored features"
        if num_times := self.num_frame_times(config):
            text += f", {num_times} times of {FRAME_TIME_TOKENS} tokens each"
        return f"a video of {self.num_frames} {what}, {text}"

    def num_frame_times(self, config: Config) -> int:
        """Return the times in words (`text.frame_times=text`) in each conversation."""
        if self.kind == "image" or config.text.frame_times != "text":
            return 0
        return num_frame_times(self.num_kept_frames(config), config.text.frames_per_time)

    def num_kept_frames(self, config: Config) -> int:
        """Return the frames of a video that forgetting keeps."""
        memaug = config.model.memaug
        return num_kept_frames(max(self.num_frames, memaug.min_frames), memaug)


def conversations_per_sample(config: Config) -> int:
    """Return the conversations of a sample; for the setting 0, unknown without data, 1."""
    return max(1, config.data.conversations_per_video)


def build_batch(config: Config, sample: LongestSample, model: HourLLaVA, num_samples: int) -> Batch:
    """Build a micro-batch of equal samples; inside a `PlanningMode` its visuals are fake.

    Args:
        config: settings of the run.
        sample: sizes.
        model: gives the shape of stored features.
        num_samples: in the micro-batch.
    """
    num_texts = num_samples * conversations_per_sample(config)
    num_times, num_learned = sample.num_frame_times(config), (sample.num_text_tokens + 1) // 2
    header = torch.tensor([TOKEN_ID])  # (1,)
    group = torch.tensor([*[TOKEN_ID] * FRAME_TIME_TOKENS * bool(num_times), IMAGE_TOKEN_INDEX])
    video = group.repeat(max(1, num_times))  # (tokens,)
    text = header.repeat(sample.num_text_tokens - 2)  # (tokens,)
    input_ids = torch.cat([header, video, text]).repeat(num_texts, 1)  # (texts, tokens)
    shape = input_ids.shape
    labels = input_ids.clone()  # (texts, tokens)
    labels[:, :-num_learned] = IGNORE_INDEX
    question_mask = torch.zeros(shape, dtype=torch.bool)  # (texts, tokens)
    question_mask[:, 1 + len(video) : -num_learned] = True
    return Batch(
        keys=tuple(f"sample {index}" for index in range(num_samples)),
        visuals=tuple(_build_visual(config, sample, model) for _ in range(num_samples)),
        visual_of_text=tuple(text * num_samples // num_texts for text in range(num_texts)),
        input_ids=input_ids,
        labels=labels,
        question_mask=question_mask,
        attention_mask=torch.ones(shape, dtype=torch.bool),
        questions=((),) * num_texts,
        positions=tuple(range(num_samples)),
    )


def _build_visual(config: Config, sample: LongestSample, model: HourLLaVA) -> Visual:
    side, grid = config.video.image_size, config.image.max_grid
    if sample.kind == "image":
        tiles = _bytes(1 + grid**2, 3, side, side)  # (tiles, 3, side, side)
        return TiledImage(tiles, (grid, grid), (grid * side, grid * side))
    timestamps = torch.arange(sample.num_frames)  # (frames,)
    if sample.kind == "video":
        return Frames(_bytes(sample.num_frames, 3, side, side), timestamps)
    shape = sample.num_frames, model.vision.tokens_per_frame, model.vision.dim
    return Features(torch.zeros(shape, dtype=torch.bfloat16), timestamps)


def _bytes(*shape: int) -> Tensor:
    """Return uint8 zeros; converted from floats, because `PlanningMode` computes new integers."""
    return torch.zeros(shape).to(torch.uint8)
