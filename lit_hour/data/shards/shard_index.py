"""The JSON index beside each shard: what is stored where in the tar.

`shards/README.md` specifies the format. `read_index` and `write_index` are the entry points.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lit_hour.data.features.format import FeatureMetadata
from lit_hour.data.questions.record import MODALITIES, Modality
from lit_hour.errors import ShardError
from lit_hour.io.atomic import atomic_write_text

VERSION = 3
UNRECORDED_SAMPLING = "seconds"  # `video.sampling` of shards that do not name it
TOTALS_NAME = "index.json"
SHARD_PATTERN = "[0-9]" * 6


@dataclass(frozen=True)
class IndexEntry:
    """The location of one stored sample: `num_bytes` of the tar from `offset` on are its members.

    Attributes:
        duration_seconds: of a video; otherwise 0.
        num_frames: stored images: frames of a video, or image files.
        size_pixels: height and width of an upright image; otherwise empty, and if it was packed
            before they were recorded.
        text_bytes: of each question with its answer, as `count_text_bytes` counts them; empty if it
            was packed before they were recorded.
        frame_rate: frames per second of a video file whose frames are chosen when it is read;
            `num_frames` in its index file is the length of the file. 0 for stored frames.
    """

    shard: str
    key: str
    modality: Modality
    offset: int
    num_bytes: int
    duration_seconds: float
    num_frames: int
    num_questions: int
    size_pixels: tuple[int, ...] = ()
    text_bytes: tuple[int, ...] = ()
    frame_rate: float = 0.0

    @classmethod
    def from_record(cls, record: dict[str, Any], **values: Any) -> IndexEntry:
        """Parse an entry of an index, with the values of fields that the record lacks."""
        lists = {key: tuple(record.get(key, ())) for key in ("size_pixels", "text_bytes")}
        return cls(**{**record, **lists, **values})


@dataclass(frozen=True)
class SkippedSample:
    """A sample that could not be packed, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FileStamp:
    """Size, times and hash of a source file, to recognize it after it was copied or moved.

    Attributes:
        num_bytes: size.
        mtime_ns: modification time, which is part of the shard's fingerprint.
        sha256: of the content, in hexadecimal.
        checked_mtime_ns: modification time at which the content was found to be this one; such a
            file is not read again.
    """

    num_bytes: int
    mtime_ns: int
    sha256: str
    checked_mtime_ns: int


@dataclass(frozen=True)
class ShardIndex:
    """The contents of one shard.

    Attributes:
        shard: file name of the tar.
        num_bytes: size of the tar.
        sha256: of the tar, in hexadecimal.
        config: settings that determine the stored frames.
        fingerprint: of everything that the shard was made from.
        entries: in the order of the tar.
        skipped: samples that are missing.
        features: how the videos were encoded, if they are stored as features; None for frames.
        files: stamp of each file that the shard was made from, by its name; empty if it was made
            from other shards, or before files were stamped.
    """

    shard: str
    num_bytes: int
    sha256: str
    config: dict[str, Any]
    fingerprint: str
    entries: tuple[IndexEntry, ...]
    skipped: tuple[SkippedSample, ...]
    features: FeatureMetadata | None = None
    files: dict[str, FileStamp] = field(default_factory=dict)


def write_index(path: Path, index: ShardIndex) -> None:
    """Write the index beside its tar. A shard without an index counts as unfinished."""
    record = dataclasses.asdict(index)
    for entry in record["entries"]:
        del entry["shard"]
        if not entry["frame_rate"]:
            del entry["frame_rate"]
    if index.features is None:
        del record["features"]
    if not index.files:
        del record["files"]
    write_json(path, record)


def read_index(path: Path) -> ShardIndex:
    """Read the index of one shard.

    Raises:
        ShardError: the file is missing, is not an index of this version, or contradicts itself.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ShardError(f"Cannot read {path}: {error.strerror}.") from error
    return parse_index(content, str(path))


def parse_index(content: bytes, location: str, shard: str = "") -> ShardIndex:
    """Parse the content of an index file.

    Args:
        content: of the file.
        location: path or URL of the file.
        shard: name of the tar, if it is not that of the index file with another suffix.

    Raises:
        ShardError: it is not an index of this version, or contradicts itself.
    """
    record = parse_json(content, location)
    shard = shard or PurePosixPath(location).stem + ".tar"
    try:
        entries = tuple(
            IndexEntry.from_record(entry, shard=shard) for entry in record.pop("entries")
        )
        skipped = tuple(SkippedSample(**sample) for sample in record.pop("skipped"))
        features = FeatureMetadata(**record.pop("features")) if "features" in record else None
        record["config"] = {"sampling": UNRECORDED_SAMPLING, **record["config"]}
        files = {name: FileStamp(**stamp) for name, stamp in record.pop("files", {}).items()}
        index = ShardIndex(
            entries=entries, skipped=skipped, features=features, files=files, **record
        )
        outside = [
            entry.key
            for entry in entries
            if not 0 <= entry.offset < entry.offset + entry.num_bytes <= index.num_bytes
        ]
        unknown = [entry.modality for entry in entries if entry.modality not in MODALITIES]
    except (TypeError, KeyError, AttributeError) as error:
        raise ShardError(f"{location} is not the index of a shard: {error}.") from error
    if index.shard != shard:
        raise ShardError(f"{location} is the index of {index.shard!r}. Rename it after its tar.")
    if outside:
        raise ShardError(
            f"{location} places {outside[0]!r} outside the {index.num_bytes} bytes of the tar."
        )
    if unknown:
        raise ShardError(
            f"{location} has the unknown modality {unknown[0]!r}."
            f" The modalities are {', '.join(MODALITIES)}."
        )
    return index


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file with the format version, atomically."""
    atomic_write_text(path, json.dumps({"version": VERSION, **record}, indent=2) + "\n")


def parse_json(content: bytes, location: str) -> dict[str, Any]:
    """Parse what `write_json` wrote, without the version; `location` is the file's path or URL.

    Raises:
        ShardError: it is not JSON, or of another version.
    """
    try:
        record = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ShardError(f"{location} is not valid JSON: {error}.") from error
    version = record.pop("version", None) if isinstance(record, dict) else None
    if version != VERSION:
        raise ShardError(
            f"{location} has format version {version}. This program reads version {VERSION}."
            f" Delete {location.rpartition('/')[0]} and make it anew: frames with"
            " `lit-hour pack FILES QUESTIONS OUT`, features with"
            " `lit-hour extract-features SOURCE TARGET`."
        )
    return record
