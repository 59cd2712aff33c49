"""Questions and the folders in which videos may lie in, the file of each question out; what is missing is listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hour.evaluation.item import Item


@dataclass(frozen=True)
class FoundVideos:
    """Where the videos lie.

    Attributes:
        files: question id -> video file.
        missing: question id -> why it cannot be asked.
    """

    files: Mapping[str, Path]
    missing: Mapping[str, str]


def find_videos(items: Iterable[Item], roots: Sequence[Path]) -> FoundVideos:
    """Look for each question's video below every root; the first root that has it wins, and in it the likeliest path."""
    files: dict[str, Path] = {}
    missing: dict[str, str] = {}
    found: dict[tuple[str, ...], Path | None] = {}
    for item in items:
        if item.videos not in found:
            candidates = (root / video for root in roots for video in item.videos)
            found[item.videos] = next((file for file in candidates if file.is_file()), None)
        if (file := found[item.videos]) is not None:
            files[item.id] = file
        else:
            missing[item.id] = f"video {' or '.join(item.videos)} is in none of {', '.join(map(str, roots)) or 'no folder'}"
    return FoundVideos(files, missing)
