"""The settings of the made-up videos, one group of the schema: how many, how long, what they look like, what is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_hour.config.fields import setting


@dataclass(frozen=True)
class WorldConfig:
    """The made-up videos of the default run, and of `python -m lit_hour synthesize`, which has its own folder and number."""

    folder: str = setting("shards/world", "where the videos, questions and shards are made")
    num_videos: int = setting(0, "videos to train on; 0 makes no world", unit="videos", at_least=0)
    num_validation_videos: int = setting(8, "videos to validate on", unit="videos", at_least=1)
    num_hour_videos: int = setting(
        1,
        "videos of a full hour among those to train on, and among those to validate on",
        at_least=0,
    )
    duration_seconds: float = setting(
        180.0, "duration of the other videos, give or take a third", unit="s", at_least=30
    )
    size_pixels: int = setting(128, "width and height of the videos", unit="pixels", at_least=32)
    frames_per_second: int = setting(5, "frame rate of the videos", unit="1/s", at_least=1)
    difficulty: Literal["easy", "needles", "full"] = setting(
        "full",
        "easy: one to three scenes in a story with one large figure each, and three tasks; needles: a few backgrounds"
        " that are seen for seconds, and three tasks; full: all 22 tasks",
    )
    num_actors: int = setting(
        10,
        "figures of a full story; no two may share both shape and colour, so 36 at most",
        unit="figures",
        at_least=1,
    )
    actions_per_minute: float = setting(
        10.0, "what happens in a minute of a full story", unit="1/min", at_least=1, at_most=15
    )
    num_needles: int = setting(
        3, "backgrounds of a needle story that are asked for", at_least=1, at_most=3
    )
    needle_seconds: float = setting(3.0, "how long each of them is seen", unit="s", at_least=1)
    tasks: str = setting(
        "",
        "tasks to ask about, with commas between them; empty: all that a story has material for. Named ones every story has",
    )
    questions_per_task: int = setting(
        2,
        "questions of each task about a full story, open-ended, and as many multiple-choice ones",
        at_least=1,
    )
    seed: int = setting(0, "seed of the stories", at_least=0)
