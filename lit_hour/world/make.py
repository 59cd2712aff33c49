"""The world settings in, two sets of videos out: one to train on and one to validate on.

FOLDER/train/       a set, as `make_set` describes it
FOLDER/validation/  another
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lit_hour.config.world import WorldConfig
from lit_hour.world.make_set import make_set
from lit_hour.world.plan import SPLITS, plan_split


@dataclass(frozen=True)
class World:
    """Where the videos and the questions about them lie, for training and for validation."""

    train_videos: Path
    train_questions: Path
    validation_videos: Path
    validation_questions: Path

    def example(self) -> tuple[str, str, str]:
        """A video to validate on, an open-ended question about it, and the true answer."""
        record = json.loads(self.validation_questions.read_text(encoding="utf-8"))[0]
        return str(self.validation_videos / record["video"]), record["question"], record["answer"]


def make_world(settings: WorldConfig, num_workers: int | None = None) -> World:
    """Make every video and both sets of questions that are not there yet.

    Args:
        settings: how many videos of which kind, and where.
        num_workers: videos rendered at once; None for one per core.

    Raises:
        WorldError: the settings ask for no video or for more hours than videos, the folder holds a world made with
            other settings, or a file cannot be written.
    """
    folder = Path(settings.folder)
    plans = {split: plan_split(settings, split) for split in SPLITS}
    origin = {name: getattr(settings, name) for name in ("seed", "num_hour_videos", "duration_seconds")}
    for split in SPLITS:
        make_set(folder / split, plans[split], settings, origin, num_workers)
    return World(
        folder / "train" / "videos",
        folder / "train" / "questions.json",
        folder / "validation" / "videos",
        folder / "validation" / "questions.json",
    )
