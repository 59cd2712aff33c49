"""Index of a shard: the byte range of each sample in the tar. Specified in `shards/README.md`."""

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
    """Location and size of one sample in its shard.

    Attributes:
        shard: file name of the tar.
        key: key of the sample, the stem of its members.
        modality: kind of the sample.
        offset, num_bytes: byte range of the sample's members in the tar.
        duration_seconds: length of a video; otherwise 0.
        num_frames: number of stored images: frames of a video, or images.
        num_questions: number of questions about the sample.
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
    """A sample that could not be packed, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class ShardIndex:
    """Index of one shard.

    Attributes:
        shard: file name of the tar.
        num_bytes: size of the tar.
        sha256: SHA-256 of the tar, in hexadecimal.
        config: settings that the frames were packed with.
        fingerprint: SHA-256 of all inputs of the shard.
        entries: one entry for each sample, in the order of the tar.
        skipped: samples that could not be packed.
        features: how the features of the videos were made; None for shards of frames.
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
    """Write the index beside its tar; it marks the shard as finished."""
    record = dataclasses.asdict(index)
    for entry in record["entries"]:
        del entry["shard"]
    if index.features is None:
        del record["features"]
    write_json(path, record)


def read_index(path: Path) -> ShardIndex:
    """Read the index of one shard.

    Raises:
        ShardError: the index is invalid, inconsistent, or of another version.
    """
    return parse_index(_read(path), str(path))


def parse_index(content: bytes, location: str) -> ShardIndex:
    """Parse the index of one shard; `location` is the path or URL of the file, for errors.

    Raises:
        ShardError: the index is invalid, inconsistent, or of another version.
    """
    record = parse_json(content, location)
    shard = PurePosixPath(location).stem + ".tar"
    try:
        entries = tuple(IndexEntry(shard=shard, **entry) for entry in record.pop("entries"))
        skipped = tuple(SkippedSample(**sample) for sample in record.pop("skipped"))
        features = FeatureMetadata(**record.pop("features")) if "features" in record else None
        index = ShardIndex(entries=entries, skipped=skipped, features=features, **record)
        outside = [
            entry.key
            for entry in entries
            if not 0 <= entry.offset < entry.offset + entry.num_bytes <= index.num_bytes
        ]
        unknown = [entry.modality for entry in entries if entry.modality not in MODALITIES]
    except (TypeError, KeyError, AttributeError) as error:
        raise ShardError(f"{location} is not a valid shard index: {error}") from error
    if index.shard != shard:
        raise ShardError(f"{location} is the index of {index.shard!r}. Name it after its tar")
    if outside:
        raise ShardError(f"{location} has {outside[0]!r} outside the tar's {index.num_bytes} bytes")
    if unknown:
        raise ShardError(
            f"{location} has an entry of unknown modality {unknown[0]!r}."
            f" Known are {', '.join(MODALITIES)}"
        )
    return index


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a versioned JSON file atomically."""
    atomic_write_text(path, json.dumps({"version": VERSION, **record}, indent=2) + "\n")


def parse_json(content: bytes, location: str) -> dict[str, Any]:
    """Parse a file written by `write_json`, without its version; `location` is for errors.

    Raises:
        ShardError: the content is not JSON, or has another version.
    """
    try:
        record = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ShardError(f"{location} cannot be read as JSON: {error}") from error
    version = record.pop("version", None) if isinstance(record, dict) else None
    if version != VERSION:
        raise ShardError(
            f"{location} has format version {version!r}. This program reads version {VERSION}."
            f" Delete {location.rpartition('/')[0]} and create it again with lit-hour pack"
            " FILES QUESTIONS OUT for frames, lit-hour extract-features SOURCE TARGET for features"
        )
    return record


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
