"""What the videos of a shard became features by, and in words how two such encodings differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lit_hour.config.deciding import describe_differences


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


def describe_changes(before: Encoding, now: Encoding) -> list[str]:
    """All that differs between two encodings."""
    changes = describe_differences({"encode.precision": before.precision}, {"encode.precision": now.precision})
    changes += describe_differences(before.settings, now.settings)
    if before.weights != now.weights:
        changes.append(f"the vision encoder had other weights (SHA-256 {before.weights[:12]}, now {now.weights[:12]})")
    return changes
