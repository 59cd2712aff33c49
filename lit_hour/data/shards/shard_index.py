"""The index beside each shard, on disk and in memory: what lies where in the tar. `shards/README.md` specifies it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lit_hour.data.features.format import FeatureMetadata
from lit_hour.data.questions.record import MODALITIES, Modality
from lit_hour.errors import ShardError
from lit_hour.io.atomic import atomic_write_text

VERSION = 3
TOTALS_NAME = "index.json"
SHARD_PATTERN = "[0-9]" * 6


@dataclass(frozen=True)
class IndexEntry:
    """Where one subject lies: `size` bytes of the tar from `offset` on hold its members and nothing else.

    `num_frames` are the pictures stored: frames of a video, or whole pictures; only a video has a duration above 0.
    """

    shard: str
    key: str
    modality: Modality
    offset: int
    num_bytes: int
    duration_seconds: float
    num_frames: int
    num_questions: int


@dataclass(frozen=True)
class SkippedSample:
    """A subject that could not be packed, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ShardIndex:
    """What one shard holds.

    Attributes:
        shard: file name of the tar.
        bytes: size of the tar.
        sha256: of the tar, in hexadecimal.
        settings: those that the frames were made with.
        fingerprint: of everything that the shard was made from.
        subjects: in the order of the tar.
        skipped: subjects that should have been here.
        encoding: of the videos, where they are stored as features; None where they are stored as frames.
    """

    shard: str
    num_bytes: int
    sha256: str
    config: dict[str, Any]
    fingerprint: str
    entries: tuple[IndexEntry, ...]
    skipped: tuple[SkippedSample, ...]
    features: FeatureMetadata | None = None


def write_index(path: Path, index: ShardIndex) -> None:
    """Write the index beside its tar; until it is there the shard does not count as finished."""
    record = dataclasses.asdict(index)
    for entry in record["entries"]:
        del entry["shard"]
    if index.features is None:
        del record["features"]
    write_json(path, record)


def read_index(path: Path) -> ShardIndex:
    """Read the index of one shard.

    Raises:
        ShardError: the file is no index, is of another version, or contradicts itself.
    """
    return parse_index(_read(path), str(path))


def parse_index(content: bytes, place: str) -> ShardIndex:
    """The index of one shard from the content of its file; `place` is the file's path or URL.

    Raises:
        ShardError: it is no index, is of another version, or contradicts itself.
    """
    record = parse_json(content, place)
    shard = PurePosixPath(place).stem + ".tar"
    try:
        entries = tuple(IndexEntry(shard=shard, **entry) for entry in record.pop("entries"))
        skipped = tuple(SkippedSample(**sample) for sample in record.pop("skipped"))
        features = FeatureMetadata(**record.pop("features")) if "features" in record else None
        index = ShardIndex(entries=entries, skipped=skipped, features=features, **record)
        outside = [
            each.key
            for each in entries
            if not 0 <= each.offset < each.offset + each.num_bytes <= index.num_bytes
        ]
        unknown = [each.modality for each in entries if each.modality not in MODALITIES]
    except (TypeError, KeyError, AttributeError) as error:
        raise ShardError(f"{place} is no index of a shard: {error}") from error
    if index.shard != shard:
        raise ShardError(
            f"{place} is the index of {index.shard!r}; an index has the name of its tar"
        )
    if outside:
        raise ShardError(f"{place} places {outside[0]!r} outside the tar's {index.num_bytes} bytes")
    if unknown:
        raise ShardError(
            f"{place} has an entry of the modality {unknown[0]!r}; there are {', '.join(MODALITIES)}"
        )
    return index


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a versioned JSON file that is there as a whole or not at all."""
    atomic_write_text(path, json.dumps({"version": VERSION, **record}, indent=2) + "\n")


def parse_json(content: bytes, place: str) -> dict[str, Any]:
    """What `write_json` wrote, without the version; `place` is the file's path or URL.

    Raises:
        ShardError: it is not JSON, or of another version.
    """
    try:
        record = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ShardError(f"{place} cannot be read as JSON: {error}") from error
    version = record.pop("version", None) if isinstance(record, dict) else None
    if version != VERSION:
        raise ShardError(
            f"{place} has format version {version!r}. This program reads version {VERSION}."
            f" Delete {place.rpartition('/')[0]} and make it anew: lit-hour pack FILES QUESTIONS OUT"
            " for frames, lit-hour extract-features SOURCE TARGET for features"
        )
    return record


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
