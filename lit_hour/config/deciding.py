"""A run's settings -> those that decide the tokens of a video or of pictures, and in words how two choices of them differ."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from lit_hour.config.schema import Config

VIDEO_SETTINGS = (
    "model.vision.name",
    "model.vision.layer",
    "model.vision.grid",
    "model.vision.tanh_gelu",
    "video.size_pixels",
    "video.frames_per_second",
    "video.min_frames",
    "video.max_frames",
)
PICTURE_SETTINGS = (*VIDEO_SETTINGS[:5], "image.max_grid", "image.max_tiles")


def deciding_settings(config: Config, names: tuple[str, ...] = VIDEO_SETTINGS) -> dict[str, Any]:
    """The settings that decide the tokens, under their full names."""
    return {name: attrgetter(name)(config) for name in names}


def describe_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Each setting that differs, as a message names it."""
    return [f"{name} was {before.get(name)!r}, is {value!r}" for name, value in now.items() if before.get(name) != value]
