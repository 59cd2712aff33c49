"""Open a folder of shards, on a disk or behind a URL, and read its stored samples.

`open_shards` is the entry point.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lit_hour.config.data import DataConfig
from lit_hour.data.features.format import (
    FEATURES_SUFFIX,
    FeatureMetadata,
    StoredTokens,
    parse_safetensors,
)
from lit_hour.data.questions.record import Interval, Modality, parse_question
from lit_hour.data.shards.cache import ShardCache
from lit_hour.data.shards.encoded_video import EncodedVideo
from lit_hour.data.shards.mmap import MmapSlice
from lit_hour.data.shards.shard_index import (
    SHARD_PATTERN,
    TOTALS_NAME,
    VERSION,
    IndexEntry,
    ShardIndex,
    parse_index,
    parse_json,
    read_index,
)
from lit_hour.data.shards.tar import (
    Content,
    expect_member,
    read_bytes,
    read_entry_members,
    read_mapped,
    read_raw,
)
from lit_hour.errors import ShardError
from lit_hour.io.urls import is_url, join_url, redact
from lit_hour.media.image_reader import FORMAT_SUFFIXES
from lit_hour.types import Question, Subtitle

MAX_CONCURRENT_FETCHES = 16


@dataclass(frozen=True)
class StoredSample:
    """One sample as its shard stores it: a video, image, image set or text with all its questions.

    Attributes:
        location: the shard's path and the key, for errors.
        files: names of the files that it was made from.
        duration_seconds: of a video; otherwise 0.
        timestamps_seconds: of each frame of a video.
        images: member name and bytes of each frame or image.
        tokens: of a video that is stored as features; it has no images.
        clip_seconds: start and end in the file of the part of a video that the sample is; None for
            the whole video.
        system_prompt: replaces `text.system_prompt` if it is not empty.
        subtitles: of a video.
        video: of a video that is stored as a file; it has no images.
    """

    location: str
    key: str
    modality: Modality
    files: tuple[str, ...]
    duration_seconds: float
    timestamps_seconds: tuple[float, ...]
    questions: tuple[Question, ...]
    images: tuple[tuple[str, bytes], ...] = ()
    tokens: StoredTokens | None = None
    clip_seconds: Interval | None = None
    system_prompt: str = ""
    subtitles: tuple[Subtitle, ...] = ()
    video: EncodedVideo | None = None


class ShardFolder(Protocol):
    """A folder that `lit-hour pack` or `lit-hour extract-features` has filled."""

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Return the index of each shard, in order.

        Raises:
            ShardError: the folder has no shards, is unfinished, or an index or a tar is missing or
                corrupt.
        """

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard, unbuffered: `read_members` reads every byte once.

        Raises:
            ShardError: it cannot be read or downloaded.
        """

    def open_entry(self, index: ShardIndex, entry: IndexEntry) -> tuple[BinaryIO, IndexEntry]:
        """Open the bytes of one sample, in its tar or alone.

        Returns:
            An unbuffered file, and the entry with its offset in that file.

        Raises:
            ShardError: they cannot be read or downloaded.
        """


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a local or shared disk."""

    path: Path

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Read the index of each shard, and check that its tar has the size in the index."""
        paths = sorted(self.path.glob(SHARD_PATTERN + ".json"))
        if not paths:
            raise ShardError(
                f"{self.path} contains no shards. Make some: lit-hour pack FILES QUESTIONS"
                f" {self.path}. To train on video files as they are, name their question file:"
                " data.sources.NAME.questions=FILE.json."
            )
        totals = self.path / TOTALS_NAME
        if not totals.is_file():
            raise ShardError(
                f"{self.path} is unfinished: {TOTALS_NAME} is missing. Run the same command again."
            )
        num_shards = _parse_num_shards(totals.read_bytes(), str(totals))
        if num_shards != len(paths):
            raise ShardError(
                f"{self.path} has {len(paths)} shards, but {totals} counts {num_shards}. Pack "
                "again."
            )
        indexes = tuple(read_index(path) for path in paths)
        for index in indexes:
            tar = self.path / index.shard
            if not tar.is_file():
                raise ShardError(f"{tar} is missing. Delete its index and pack again.")
            if tar.stat().st_size != index.num_bytes:
                raise ShardError(
                    f"{tar} has {tar.stat().st_size} bytes, but {index.num_bytes} by its index."
                    " Delete both and pack again."
                )
        return indexes

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard."""
        path = self.path / index.shard
        try:
            return path.open("rb", buffering=0)
        except OSError as error:
            raise ShardError(f"Cannot read {path}: {error.strerror}.") from error

    def open_entry(self, index: ShardIndex, entry: IndexEntry) -> tuple[BinaryIO, IndexEntry]:
        """Open the tar of a sample."""
        return self.open(index), entry


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL; see `ShardCache.open_entry` for when a tar is downloaded."""

    url: str
    cache: ShardCache

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Download the index of each shard."""
        store, folder = self.cache.store, redact(self.url).rstrip("/")
        content = store.read(join_url(self.url, TOTALS_NAME))
        num_shards = _parse_num_shards(content, f"{folder}/{TOTALS_NAME}")
        names = [f"{number:06d}.json" for number in range(num_shards)]
        with ThreadPoolExecutor(MAX_CONCURRENT_FETCHES) as executor:
            contents = executor.map(lambda name: store.read(join_url(self.url, name)), names)
            return tuple(
                parse_index(content, f"{folder}/{name}")
                for name, content in zip(names, contents, strict=True)
            )

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard in the cache."""
        return self.cache.open(join_url(self.url, index.shard), index)

    def open_entry(self, index: ShardIndex, entry: IndexEntry) -> tuple[BinaryIO, IndexEntry]:
        """Open the tar of a sample in the cache, or the bytes of the sample alone."""
        return self.cache.open_entry(join_url(self.url, index.shard), index, entry)


def _parse_num_shards(content: bytes, location: str) -> int:
    """Return the number of shards that the totals of a folder give."""
    num_shards = parse_json(content, location).get("num_shards")
    if not isinstance(num_shards, int) or num_shards < 1:
        raise ShardError(
            f"{location} has num_shards={num_shards!r}, which is not a number of shards. Pack "
            "again."
        )
    return num_shards


@dataclass(frozen=True)
class Shards:
    """The indexes of a folder of shards. It is picklable: it holds no open file.

    Subclasses read other kinds of sources: `read` is all that differs.

    Attributes:
        name: path or URL of the folder, without secrets.
    """

    name: str
    folder: ShardFolder
    indexes: tuple[ShardIndex, ...]

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """The entries of all shards."""
        return tuple(entry for index in self.indexes for entry in index.entries)

    @cached_property
    def index_of(self) -> dict[str, ShardIndex]:
        """The index of each shard by its name."""
        return {index.shard: index for index in self.indexes}

    def describe_location(self, entry: IndexEntry) -> str:
        """Return the shard and the key of an entry, for messages."""
        return f"{self.name}/{entry.shard}: {entry.modality} {entry.key!r}"

    def feature_metadata(self) -> dict[str, FeatureMetadata]:
        """Return how videos were encoded, by the path of each shard that has videos as features."""
        return {
            f"{self.name}/{index.shard}": index.features
            for index in self.indexes
            if index.features and any(entry.modality == "video" for entry in index.entries)
        }

    def read_raw(self, entry: IndexEntry) -> bytes:
        """Return the bytes of the tar that hold one stored sample.

        Raises:
            ShardError: the tar cannot be read or is truncated.
        """
        tar, found = self.folder.open_entry(self.index_of[entry.shard], entry)
        with tar:
            return read_raw(tar, f"{self.name}/{entry.shard}", found)

    def read(self, entry: IndexEntry) -> StoredSample:
        """Read one stored sample; its images stay encoded.

        Raises:
            ShardError: the tar is truncated, a member is missing or corrupt, or `KEY.json` does not
                match.
        """
        index = self.index_of[entry.shard]
        location, path = self.describe_location(entry), f"{self.name}/{entry.shard}"
        tar, found = self.folder.open_entry(index, entry)
        with tar:
            if entry.modality == "video" and index.features is not None:
                mapped = read_entry_members(tar, path, found, read_mapped)
                tokens = _read_tokens(mapped, entry, index.features, location)
                return replace(_read_metadata(mapped, entry, location), tokens=tokens)
            members = read_entry_members(tar, path, found, read_bytes)
            suffixes = ("jpg",) if entry.modality == "video" else FORMAT_SUFFIXES
            images = tuple(
                expect_member(members, f"{entry.key}.{number:06d}", suffixes, location)
                for number in range(entry.num_frames)
            )
            return replace(_read_metadata(members, entry, location), images=images)


def open_shards(location: Path | str, config: DataConfig | None = None) -> Shards:
    """Read the indexes of a folder of shards.

    Args:
        location: path of the folder, or as text its URL.
        config: where shards from a URL are cached; by default the settings' defaults.

    Raises:
        ShardError: the folder has no shards or is unfinished, a tar is missing or has another size,
            or the server does not answer.
    """
    folder: ShardFolder
    if isinstance(location, str) and is_url(location):
        name = redact(location).rstrip("/")
        folder = RemoteFolder(location, ShardCache.from_config(config or DataConfig()))
    else:
        name, folder = str(Path(location)), LocalFolder(Path(location))
    return Shards(name, folder, folder.indexes())


def _read_tokens(
    members: Iterator[tuple[str, MmapSlice]],
    entry: IndexEntry,
    metadata: FeatureMetadata,
    location: str,
) -> StoredTokens:
    name, part = expect_member(members, entry.key, (FEATURES_SUFFIX,), location)
    tokens = parse_safetensors(part.content, entry.num_frames, metadata, f"{location}: {name}")
    return replace(tokens, mmap_slice=part)


def _read_metadata(
    members: Iterator[tuple[str, Content]], entry: IndexEntry, location: str
) -> StoredSample:
    """Read `KEY.json`, the last member, and check it against the index."""
    name, content = expect_member(members, entry.key, ("json",), location)
    for extra, _ in members:
        raise ShardError(f"{location}: {extra} is not in the index.")
    member = f"{location}: {name}"
    try:
        record: dict[str, Any] = json.loads(bytes(content))
        version, questions = record["version"], record["questions"]
        stored = StoredSample(
            location=location,
            key=record["key"],
            modality=record["modality"],
            files=tuple(str(file) for file in record["files"]),
            duration_seconds=float(record["duration_seconds"]),
            timestamps_seconds=tuple(float(time) for time in record["timestamps_seconds"]),
            questions=tuple(parse_question(question, member) for question in questions),
            clip_seconds=_parse_clip(record.get("clip_seconds")),
            system_prompt=str(record.get("system_prompt", "")),
            subtitles=tuple(
                Subtitle(float(start), float(end), str(text))
                for start, end, text in record.get("subtitles", ())
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{member} is corrupt: {error!r}.") from error
    if version != VERSION:
        raise ShardError(
            f"{member} has format version {version}. This program reads version {VERSION}."
            " Pack the shard again."
        )
    num_frames = len(stored.timestamps_seconds if stored.modality == "video" else stored.files)
    found = (stored.key, stored.modality, num_frames, len(stored.questions))
    if found != (entry.key, entry.modality, entry.num_frames, entry.num_questions):
        raise ShardError(
            f"{member} has (key, modality, frames, questions) {found}, which does not match the "
            "index."
        )
    return stored


def _parse_clip(clip: Any) -> Interval | None:
    if clip is None:
        return None
    start, end = clip
    return float(start), float(end)
