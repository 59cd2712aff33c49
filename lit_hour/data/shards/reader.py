"""A folder of shards in, single subjects out as they are stored. Damage is named, never passed over."""

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
    """One subject as its shard holds it.

    Attributes:
        place: the shard's path and the key, for errors.
        files: names of the files that it was made from.
        duration_seconds: of a video; otherwise 0.
        timestamps_seconds: of each frame of a video.
        pictures: member name and bytes of each frame or picture.
        tokens: of a video that is stored as features, which has no pictures then.
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
        """The files that it was made from, in one line."""
        return ", ".join(self.files)


@dataclass(frozen=True)
class Shards:
    """The indexes of a folder of shards. It holds no open file, so that it can be sent to other processes."""

    folder: ShardFolder
    indexes: tuple[ShardIndex, ...]

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """Every subject, shard by shard."""
        return tuple(subject for index in self.indexes for subject in index.entries)

    @cached_property
    def _index_of(self) -> dict[str, ShardIndex]:
        return {index.shard: index for index in self.indexes}

    def costs_per_shard(
        self, questions_per_sample: int, cost: SampleCost
    ) -> tuple[NDArray[np.int64], ...]:
        """The cost of each sample of each shard, in the order of `locate`: `(samples,)` for each shard."""
        return tuple(
            np.array(
                [
                    cost.num_tokens(each, num)
                    for each in index.entries
                    for num in _question_counts(each, questions_per_sample)
                ],
                np.int64,
            )
            for index in self.indexes
        )

    def samples_per_shard(self, questions_per_sample: int) -> tuple[int, ...]:
        """How many samples each shard has when a sample asks up to so many consecutive questions.

        Texts and sets of pictures are one sample each: their questions are one conversation, which is not cut.
        """
        return tuple(
            sum(_num_samples(each, questions_per_sample) for each in index.entries)
            for index in self.indexes
        )

    def locate(
        self, shard: int, sample: int, questions_per_sample: int
    ) -> tuple[IndexEntry, slice]:
        """The subject of a sample of a shard, and which of the subject's questions the sample asks.

        Raises:
            IndexError: the shard has fewer samples.
        """
        for record in self.indexes[shard].entries:
            num_samples = _num_samples(record, questions_per_sample)
            if sample < num_samples:
                num_asked = _questions_per_sample_of(record, questions_per_sample)
                return record, slice(sample * num_asked, (sample + 1) * num_asked)
            sample -= num_samples
        raise IndexError(f"shard {shard} of {self.folder} has {sample} samples too few")

    def describe_location(self, record: IndexEntry) -> str:
        """The shard and the key of a subject, as messages name them."""
        return f"{self.folder}/{record.shard}: {record.modality} {record.key!r}"

    def read_raw(self, record: IndexEntry) -> bytes:
        """One subject's part of its tar, as it is.

        Raises:
            ShardError: the tar cannot be read, or is shorter than its index says.
        """
        with self.folder.open(self._index_of[record.shard]) as tar:
            return read_raw(tar, f"{self.folder}/{record.shard}", record)

    def read(self, record: IndexEntry) -> StoredSample:
        """Read one subject's part of its tar; its pictures stay undecoded.

        Raises:
            ShardError: the tar is shorter than its index says, a member is missing or damaged, or `KEY.json` does not fit.
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


def open_shards(place: Path | str, cache: ShardCache | None = None) -> Shards:
    """Read the indexes of a folder that `python -m lit_hour pack` has filled.

    Args:
        place: the path of the folder, or as text its http://, https:// or s3:// URL.
        cache: where shards from a URL are kept; without one, by the defaults of the settings.

    Raises:
        ShardError: the folder holds no shards, packing has not finished, a tar is missing or has another size, or the server
            does not answer.
    """
    folder: ShardFolder
    if isinstance(place, str) and is_url(place):
        folder = RemoteFolder(place, cache or ShardCache.from_config(DataConfig()))
    else:
        folder = LocalFolder(Path(place))
    return Shards(folder, folder.indexes())


def _questions_per_sample_of(record: IndexEntry, questions_per_sample: int) -> int:
    """Questions that one sample asks about this subject, at most."""
    return (
        questions_per_sample
        if record.modality in MULTI_RECORD_MODALITIES
        else max(record.num_questions, 1)
    )


def _num_samples(record: IndexEntry, questions_per_sample: int) -> int:
    return -(-record.num_questions // _questions_per_sample_of(record, questions_per_sample))


def _question_counts(record: IndexEntry, questions_per_sample: int) -> Iterator[int]:
    """Questions of each sample about this subject: the last one may have fewer."""
    num_asked = _questions_per_sample_of(record, questions_per_sample)
    return (
        min(num_asked, record.num_questions - first)
        for first in range(0, record.num_questions, num_asked)
    )


def _read_pictures(
    members: Iterator[tuple[str, bytes]], record: IndexEntry, place: str
) -> StoredSample:
    suffixes = ("jpg",) if record.modality == "video" else IMAGE_SUFFIXES
    pictures = tuple(
        expect_member(members, f"{record.key}.{number:06d}", suffixes, place)
        for number in range(record.num_frames)
    )
    return _stored_subject(_last_member(members, record, place), record, place, pictures=pictures)


def _read_features(
    members: Iterator[tuple[str, MmapSlice]],
    record: IndexEntry,
    encoding: FeatureMetadata,
    place: str,
) -> StoredSample:
    name, part = expect_member(members, record.key, (FEATURES_SUFFIX,), place)
    tokens = parse_safetensors(part.content, record.num_frames, encoding, f"{place}: member {name}")
    return _stored_subject(
        bytes(_last_member(members, record, place)),
        record,
        place,
        tokens=replace(tokens, mmap_slice=part),
    )


def _last_member(members: Iterator[tuple[str, Content]], record: IndexEntry, place: str) -> Content:
    """The content of `KEY.json`."""
    _, content = expect_member(members, record.key, ("json",), place)
    for found, _ in members:
        raise ShardError(f"{place}: the member {found} is not in the index")
    return content


def _stored_subject(
    metadata: bytes,
    expected: IndexEntry,
    place: str,
    *,
    pictures: tuple[tuple[str, bytes], ...] = (),
    tokens: StoredTokens | None = None,
) -> StoredSample:
    """Check `KEY.json` against the index, and put the parts together."""
    member = f"{place}: member {expected.key}.json"
    try:
        record: dict[str, Any] = json.loads(metadata)
        version, questions = record["version"], record["questions"]
        stored = StoredSample(
            location=place,
            key=record["key"],
            modality=record["modality"],
            files=tuple(str(file) for file in record["files"]),
            duration_seconds=float(record["duration_seconds"]),
            timestamps_seconds=tuple(float(moment) for moment in record["timestamps_seconds"]),
            questions=tuple(parse_question(question, member) for question in questions),
            images=pictures,
            tokens=tokens,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{member} is damaged: {error!r}") from error
    if version != VERSION:
        raise ShardError(
            f"{member} has format version {version!r}. This program reads version {VERSION}. Pack again"
        )
    num_frames = len(stored.timestamps_seconds if stored.modality == "video" else stored.files)
    counts = (stored.key, stored.modality, num_frames, len(stored.questions))
    if counts != (expected.key, expected.modality, expected.num_frames, expected.num_questions):
        raise ShardError(
            f"{member} has (key, kind, frames, questions) {counts}, which does not fit the index"
        )
    return stored
