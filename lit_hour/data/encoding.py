"""A run's settings and the weights of its vision encoder -> what decides the tokens of a video, and in words how two differ."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from lit_hour.config.schema import Config

DECIDING_SETTINGS = (
    "model.vision.name",
    "model.vision.layer",
    "model.vision.grid",
    "model.vision.tanh_gelu",
    "video.size_pixels",
    "video.frames_per_second",
    "video.min_frames",
    "video.max_frames",
)


@dataclass(frozen=True)
class Encoding:
    """What the videos of a shard became features by. An index holds it.

    Attributes:
        precision: of the stored tokens, as `encode.precision` has it.
        tokens_per_frame, vision_dim: of each video.
        settings: those that decide the tokens, under their full names.
        weights: SHA-256 of the vision encoder, as `VisionEncoder.digest` gives it.
    """

    precision: Literal["bf16", "int8"]
    tokens_per_frame: int
    vision_dim: int
    settings: dict[str, Any]
    weights: str


def deciding_settings(config: Config) -> dict[str, Any]:
    """The settings that decide the tokens of a video, under their full names."""
    return {name: attrgetter(name)(config) for name in DECIDING_SETTINGS}


def describe_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Each setting that differs, as a message names it."""
    return [f"{name} was {before.get(name)!r}, is {value!r}" for name, value in now.items() if before.get(name) != value]


def describe_changes(before: Encoding, now: Encoding) -> list[str]:
    """All that differs between two encodings."""
    changes = describe_differences({"encode.precision": before.precision}, {"encode.precision": now.precision})
    changes += describe_differences(before.settings, now.settings)
    if before.weights != now.weights:
        changes.append(f"the vision encoder had other weights (SHA-256 {before.weights[:12]}, now {now.weights[:12]})")
    return changes
