"""Settings of the synthetic videos: number, duration, content and questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class FootageConfig:
    """Photographs that `lit-hour synthesize --footage` shows in real footage."""

    min_photos: int = field(1, "fewest photographs in a video, whatever its duration", ge=1)
    max_photos: int = field(8, "most photographs in a video, whatever its duration", ge=1)
    min_photo_seconds: float = field(
        2.0, "shortest time for which a photograph is shown", unit="s", ge=0.5
    )
    max_photo_seconds: float = field(
        6.0, "longest time for which a photograph is shown", unit="s", ge=0.5
    )
    width: int = field(
        0, "width of the videos, even; 0 for the commonest of the footage", unit="pixels", ge=0
    )
    height: int = field(
        0, "height of the videos, even; 0 for the commonest of the footage", unit="pixels", ge=0
    )


@dataclass(frozen=True)
class SyntheticConfig:
    """Synthetic videos of the default run, and of `lit-hour synthesize`.

    `lit-hour synthesize` has its own folder and number of videos.
    """

    folder: str = field("shards/world", "folder of the videos, questions and shards")
    num_videos: int = field(0, "training videos; 0 creates no synthetic data", unit="videos", ge=0)
    num_val_videos: int = field(8, "validation videos", unit="videos", ge=1)
    num_hour_videos: int = field(
        1, "videos of an hour among the training videos, and among the validation videos", ge=0
    )
    duration_seconds: float = field(
        180.0, "duration of the other videos, within a third", unit="s", ge=30
    )
    image_size: int = field(128, "width and height of the videos", unit="pixels", ge=32)
    fps: int = field(5, "frame rate of the videos", unit="1/s", ge=1)
    difficulty: Literal["easy", "needles", "full"] = field(
        "full",
        "easy: stories of one to three scenes with one large figure each, and three tasks; needles:"
        " a few backgrounds that last seconds, and three tasks; full: all 22 tasks",
    )
    num_actors: int = field(
        10,
        "figures of a full story; no two have the same shape and color, so at most 36",
        unit="figures",
        ge=1,
    )
    actions_per_minute: float = field(
        10.0, "actions per minute of a full story", unit="1/min", ge=1, le=15
    )
    num_needles: int = field(
        3, "backgrounds of a needle story that questions are about", ge=1, le=3
    )
    needle_seconds: float = field(3.0, "duration of each of these backgrounds", unit="s", ge=1)
    tasks: str = field(
        "",
        "tasks of the questions, separated by commas; every story has material for each. Empty for"
        " all tasks that a story has material for",
    )
    questions_per_task: int = field(
        2,
        "open-ended questions of each task about a full story, and as many multiple-choice ones",
        ge=1,
    )
    grounding_share: float = field(
        0.0,
        "share of the questions with short evidence that ask for its times instead: When does the"
        " video show the answer to ...?",
        ge=0,
        le=1,
    )
    seed: int = field(0, "seed of the stories", ge=0)
    footage: FootageConfig = field(FootageConfig, "photographs in real footage")


@dataclass(frozen=True)
class PretrainTowerConfig:
    """Training of a small vision encoder by `lit-hour pretrain-tower`."""

    num_frames: int = field(40_000, "training frames, drawn in memory", unit="frames", ge=1)
    num_val_frames: int = field(4_000, "unseen frames", unit="frames", ge=1)
    num_steps: int = field(5_000, "optimizer steps", unit="steps", ge=2)
    batch_size: int = field(64, "frames in a step", unit="frames", ge=1)
    learning_rate: float = field(4e-3, "largest learning rate", gt=0)
    seed: int = field(0, "seed of the weights, the frames and their order", ge=0)


@dataclass(frozen=True)
class PretrainLanguageConfig:
    """Training of a small language model by `lit-hour pretrain-language`."""

    num_steps: int = field(1_000, "optimizer steps", unit="steps", ge=2)
    short_ratio: float = field(
        0.3, "share of the steps, the first ones, with short questions alone", ge=0, le=1
    )
    batch_size: int = field(8, "texts in a step, each about a new story", ge=1)
    num_val_stories: int = field(160, "unseen stories", unit="stories", ge=1)
    tokens_per_frame: int = field(
        4, "tokens of a frame, as many as spatial forgetting keeps", unit="tokens", ge=1
    )
    learning_rate: float = field(2e-3, "largest learning rate", gt=0)
    seed: int = field(0, "seed of the weights and the stories", ge=0)
