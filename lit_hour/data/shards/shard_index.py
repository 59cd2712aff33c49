"""The index beside each shard, on disk and in memory: what lies where in the tar. `shards/README.md` specifies it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lit_hour.data.features.format import Encoding
from lit_hour.data.questions.record import KINDS, Kind
from lit_hour.errors import ShardError
from lit_hour.io.atomic import write_whole

VERSION = 2
TOTALS_NAME = "index.json"
SHARD_PATTERN = "[0-9]" * 6


@dataclass(frozen=True)
class SubjectRecord:
    """Where one subject lies: `size` bytes of the tar from `offset` on hold its members and nothing else.

    `num_frames` are the pictures stored: frames of a video, or whole pictures; only a video has a duration above 0.
    """

    shard: str
    key: str
    kind: Kind
    offset: int
    size: int
    duration_seconds: float
    num_frames: int
    num_questions: int


@dataclass(frozen=True)
class SkippedSubject:
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
    bytes: int
    sha256: str
    settings: dict[str, Any]
    fingerprint: str
    subjects: tuple[SubjectRecord, ...]
    skipped: tuple[SkippedSubject, ...]
    encoding: Encoding | None = None


def write_index(path: Path, index: ShardIndex) -> None:
    """Write the index beside its tar; until it is there the shard does not count as finished."""
    record = dataclasses.asdict(index)
    for subject in record["subjects"]:
        del subject["shard"]
    if index.encoding is None:
        del record["encoding"]
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
        subjects = tuple(
            SubjectRecord(shard=shard, **subject) for subject in record.pop("subjects")
        )
        skipped = tuple(SkippedSubject(**subject) for subject in record.pop("skipped"))
        encoding = Encoding(**record.pop("encoding")) if "encoding" in record else None
        index = ShardIndex(subjects=subjects, skipped=skipped, encoding=encoding, **record)
        outside = [
            each.key
            for each in subjects
            if not 0 <= each.offset < each.offset + each.size <= index.bytes
        ]
        unknown = [each.kind for each in subjects if each.kind not in KINDS]
    except (TypeError, KeyError, AttributeError) as error:
        raise ShardError(f"{place} is no index of a shard: {error}") from error
    if index.shard != shard:
        raise ShardError(
            f"{place} is the index of {index.shard!r}; an index has the name of its tar"
        )
    if outside:
        raise ShardError(f"{place} places {outside[0]!r} outside the tar's {index.bytes} bytes")
    if unknown:
        raise ShardError(
            f"{place} has a subject of the kind {unknown[0]!r}; there are {', '.join(KINDS)}"
        )
    return index


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a versioned JSON file that is there as a whole or not at all."""
    write_whole(path, json.dumps({"version": VERSION, **record}, indent=2) + "\n")


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
        folder = place.rpartition("/")[0]
        raise ShardError(
            f"{place} has version {version!r}, this program reads version {VERSION}: delete {folder} and pack again"
        )
    return record


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
