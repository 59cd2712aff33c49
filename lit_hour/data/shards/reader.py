"""Random access to the samples of a folder of shards (`open_shards`); damage is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_hour.config.data import DataConfig
from lit_hour.data.features.format import (
    FEATURES_SUFFIX,
    FeatureMetadata,
    StoredTokens,
    parse_safetensors,
)
from lit_hour.data.order.sample_order import SampleCost
from lit_hour.data.questions.record import MULTI_RECORD_MODALITIES, Modality, parse_question
from lit_hour.data.shards.http import is_url
from lit_hour.data.shards.mmap import MmapSlice
from lit_hour.data.shards.shard_index import VERSION, IndexEntry, ShardIndex
from lit_hour.data.shards.storage import LocalFolder, RemoteFolder, ShardCache, ShardFolder
from lit_hour.data.shards.tar import (
    Content,
    expect_member,
    read_bytes,
    read_entry_members,
    read_mapped,
    read_raw,
)
from lit_hour.errors import ShardError
from lit_hour.media.image_reader import IMAGE_SUFFIXES
from lit_hour.types import Question


@dataclass(frozen=True)
class StoredSample:
    """One sample as stored in its shard.

    Attributes:
        location: path of the shard and key, for error messages.
        files: names of the files that the sample was packed from.
        duration_seconds: length of a video; otherwise 0.
        timestamps_seconds: time of each frame of a video.
        images: member name and encoded bytes of each frame or image.
        tokens: features of a video that is stored as features; `images` is empty then.
    """

    location: str
    key: str
    modality: Modality
    files: tuple[str, ...]
    duration_seconds: float
    timestamps_seconds: tuple[float, ...]
    questions: tuple[Question, ...]
    images: tuple[tuple[str, bytes], ...]
    tokens: StoredTokens | None = None

    @property
    def source(self) -> str:
        """Return the names of the original files, joined by commas."""
        return ", ".join(self.files)


@dataclass(frozen=True)
class Shards:
    """Indexes of a folder of shards; picklable, because it holds no open files."""

    folder: ShardFolder
    indexes: tuple[ShardIndex, ...]

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """Return the index entries of all samples, shard by shard."""
        return tuple(subject for index in self.indexes for subject in index.entries)

    @cached_property
    def _index_of(self) -> dict[str, ShardIndex]:
        return {index.shard: index for index in self.indexes}

    def costs_per_shard(
        self, questions_per_sample: int, cost: SampleCost
    ) -> tuple[NDArray[np.int64], ...]:
        """Compute the cost of each sample, in the order of `locate`.

        Returns:
            One array `(samples,)` for each shard.
        """
        return tuple(
            np.array(
                [
                    cost.num_tokens(entry, num_questions)
                    for entry in index.entries
                    for num_questions in _question_counts(entry, questions_per_sample)
                ],
                np.int64,
            )
            for index in self.indexes
        )

    def samples_per_shard(self, questions_per_sample: int) -> tuple[int, ...]:
        """Count the samples of each shard, with up to `questions_per_sample` questions per sample.

        A text or an image set is always one sample: its questions are one conversation, which is
        never split.
        """
        return tuple(
            sum(_num_samples(entry, questions_per_sample) for entry in index.entries)
            for index in self.indexes
        )

    def locate(
        self, shard: int, sample: int, questions_per_sample: int
    ) -> tuple[IndexEntry, slice]:
        """Return the index entry of a sample and the slice of its questions in that sample.

        Raises:
            IndexError: the shard has fewer samples.
        """
        for record in self.indexes[shard].entries:
            num_samples = _num_samples(record, questions_per_sample)
            if sample < num_samples:
                num_questions = _questions_per_sample_of(record, questions_per_sample)
                return record, slice(sample * num_questions, (sample + 1) * num_questions)
            sample -= num_samples
        raise IndexError(f"shard {shard} of {self.folder} has {sample} samples too few")

    def describe_location(self, record: IndexEntry) -> str:
        """Format the shard and the key of an entry for messages."""
        return f"{self.folder}/{record.shard}: {record.modality} {record.key!r}"

    def read_raw(self, record: IndexEntry) -> bytes:
        """Return the raw bytes of a sample in its tar.

        Raises:
            ShardError: the tar cannot be read or is truncated.
        """
        with self.folder.open(self._index_of[record.shard]) as tar:
            return read_raw(tar, f"{self.folder}/{record.shard}", record)

    def read(self, record: IndexEntry) -> StoredSample:
        """Read one sample from its tar, without decoding its images.

        Raises:
            ShardError: the tar is truncated, a member is missing or damaged, or `KEY.json` does not
                match the index.
        """
        index, path = self._index_of[record.shard], f"{self.folder}/{record.shard}"
        if record.modality == "video" and index.features:
            with self.folder.open(index) as tar:
                return _read_features(
                    read_entry_members(tar, path, record, read_mapped),
                    record,
                    index.features,
                    self.describe_location(record),
                )
        with self.folder.open(index) as tar:
            return _read_pictures(
                read_entry_members(tar, path, record, read_bytes),
                record,
                self.describe_location(record),
            )


def open_shards(location: Path | str, cache: ShardCache | None = None) -> Shards:
    """Open a folder of shards written by `lit-hour pack` or `lit-hour extract-features`.

    Args:
        location: path of the folder, or its http://, https:// or s3:// URL as a string.
        cache: local cache for remote shards; by default built from the default settings.

    Raises:
        ShardError: the folder contains no shards, packing has not finished, a tar is missing or has
            the wrong size, or the server does not respond.
    """
    folder: ShardFolder
    if isinstance(location, str) and is_url(location):
        folder = RemoteFolder(location, cache or ShardCache.from_config(DataConfig()))
    else:
        folder = LocalFolder(Path(location))
    return Shards(folder, folder.indexes())


def _questions_per_sample_of(record: IndexEntry, questions_per_sample: int) -> int:
    """Return the maximum number of questions in one sample of this entry."""
    return (
        questions_per_sample
        if record.modality in MULTI_RECORD_MODALITIES
        else max(record.num_questions, 1)
    )


def _num_samples(record: IndexEntry, questions_per_sample: int) -> int:
    return -(-record.num_questions // _questions_per_sample_of(record, questions_per_sample))


def _question_counts(record: IndexEntry, questions_per_sample: int) -> Iterator[int]:
    """Yield the number of questions in each sample of this entry; the last may have fewer."""
    num_questions = _questions_per_sample_of(record, questions_per_sample)
    return (
        min(num_questions, record.num_questions - first)
        for first in range(0, record.num_questions, num_questions)
    )


def _read_pictures(
    members: Iterator[tuple[str, bytes]], record: IndexEntry, location: str
) -> StoredSample:
    suffixes = ("jpg",) if record.modality == "video" else IMAGE_SUFFIXES
    pictures = tuple(
        expect_member(members, f"{record.key}.{number:06d}", suffixes, location)
        for number in range(record.num_frames)
    )
    return _stored_subject(
        _last_member(members, record, location), record, location, pictures=pictures
    )


def _read_features(
    members: Iterator[tuple[str, MmapSlice]],
    record: IndexEntry,
    encoding: FeatureMetadata,
    location: str,
) -> StoredSample:
    name, mmap_slice = expect_member(members, record.key, (FEATURES_SUFFIX,), location)
    tokens = parse_safetensors(
        mmap_slice.content, record.num_frames, encoding, f"{location}: member {name}"
    )
    return _stored_subject(
        bytes(_last_member(members, record, location)),
        record,
        location,
        tokens=replace(tokens, mmap_slice=mmap_slice),
    )


def _last_member(
    members: Iterator[tuple[str, Content]], record: IndexEntry, location: str
) -> Content:
    """Return the content of `KEY.json` and check that it is the last member."""
    _, content = expect_member(members, record.key, ("json",), location)
    for found, _ in members:
        raise ShardError(f"{location}: the member {found} is not in the index")
    return content


def _stored_subject(
    metadata: bytes,
    expected: IndexEntry,
    location: str,
    *,
    pictures: tuple[tuple[str, bytes], ...] = (),
    tokens: StoredTokens | None = None,
) -> StoredSample:
    """Check `KEY.json` against the index and build the stored sample."""
    member = f"{location}: member {expected.key}.json"
    try:
        record: dict[str, Any] = json.loads(metadata)
        version, questions = record["version"], record["questions"]
        stored = StoredSample(
            location=location,
            key=record["key"],
            modality=record["modality"],
            files=tuple(str(file) for file in record["files"]),
            duration_seconds=float(record["duration_seconds"]),
            timestamps_seconds=tuple(float(seconds) for seconds in record["timestamps_seconds"]),
            questions=tuple(parse_question(question, member) for question in questions),
            images=pictures,
            tokens=tokens,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{member} is damaged: {error!r}") from error
    if version != VERSION:
        raise ShardError(
            f"{member} has format version {version!r}. This program reads version {VERSION}."
            " Pack again"
        )
    num_frames = len(stored.timestamps_seconds if stored.modality == "video" else stored.files)
    counts = (stored.key, stored.modality, num_frames, len(stored.questions))
    if counts != (expected.key, expected.modality, expected.num_frames, expected.num_questions):
        raise ShardError(
            f"{member} has (key, modality, frames, questions) {counts},"
            " which does not match the index"
        )
    return stored
