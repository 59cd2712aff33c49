"""The settings of the made-up videos, one group of the schema: how many, how long, what they look like, what is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import field


@dataclass(frozen=True)
class SyntheticConfig:
    """The made-up videos of the default run, and of `python -m lit_hour synthesize`, which has its own folder and number."""

    folder: str = field("shards/world", "where the videos, questions and shards are made")
    num_videos: int = field(0, "videos to train on; 0 makes no world", unit="videos", ge=0)
    num_val_videos: int = field(8, "videos to validate on", unit="videos", ge=1)
    num_hour_videos: int = field(
        1,
        "videos of a full hour among those to train on, and among those to validate on",
        ge=0,
    )
    duration_seconds: float = field(
        180.0, "duration of the other videos, give or take a third", unit="s", ge=30
    )
    image_size: int = field(128, "width and height of the videos", unit="pixels", ge=32)
    fps: int = field(5, "frame rate of the videos", unit="1/s", ge=1)
    difficulty: Literal["easy", "needles", "full"] = field(
        "full",
        "easy: one to three scenes in a story with one large figure each, and three tasks; needles: a few backgrounds"
        " that are seen for seconds, and three tasks; full: all 22 tasks",
    )
    num_actors: int = field(
        10,
        "figures of a full story; no two may share both shape and colour, so 36 at most",
        unit="figures",
        ge=1,
    )
    actions_per_minute: float = field(
        10.0, "what happens in a minute of a full story", unit="1/min", ge=1, le=15
    )
    num_needles: int = field(3, "backgrounds of a needle story that are asked for", ge=1, le=3)
    needle_seconds: float = field(3.0, "how long each of them is seen", unit="s", ge=1)
    tasks: str = field(
        "",
        "tasks to ask about, with commas between them; empty: all that a story has material for. Named ones every story has",
    )
    questions_per_task: int = field(
        2,
        "questions of each task about a full story, open-ended, and as many multiple-choice ones",
        ge=1,
    )
    seed: int = field(0, "seed of the stories", ge=0)
