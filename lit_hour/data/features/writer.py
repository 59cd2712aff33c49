"""Resumable writer of feature shards (`FeatureWriter`). Each encoded video is saved immediately.

TARGET/features.json                   source and metadata of the features; must match on resume
TARGET/unfinished/000003/0007.tar      members of the eighth sample of the fourth shard, a video
TARGET/unfinished/000003/0007.json     its index entry; written last, marks the video as finished
TARGET/unfinished/000003/0007.skipped  or why it cannot be read; retried on resume
TARGET/000003.tar, 000003.json         finished shard and its index; its single videos are removed
TARGET/index.json                      totals; written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lit_hour.data.features.format import (
    FEATURES_SUFFIX,
    FeatureMetadata,
    StoredTokens,
    diff_feature_metadata,
    to_safetensors,
)
from lit_hour.data.features.source import FeatureSource, SampleRef
from lit_hour.data.packing.pack import PackSummary, make_output_dir, summarize
from lit_hour.data.packing.shard_writer import END_OF_ARCHIVE, publish_shard
from lit_hour.data.shards.shard_index import (
    SHARD_PATTERN,
    TOTALS_NAME,
    IndexEntry,
    SkippedSample,
    parse_json,
    read_index,
    write_json,
)
from lit_hour.data.shards.tar import write_member
from lit_hour.errors import ImageError, ShardError
from lit_hour.io.atomic import TEMP_SUFFIX, temp_path

METADATA_FILE = "features.json"
KEPT, SKIPPED = ".json", ".skipped"  # suffixes that mark a processed sample
COPIED_BYTES = 2**24  # buffer size


class FeatureWriter:
    """Output folder of encoding; processes with separate videos and shards may share it."""

    def __init__(
        self, path: Path, source: FeatureSource, encoding: FeatureMetadata, max_skipped: int
    ) -> None:
        """Check the existing content of the folder, without changing it.

        Raises:
            ShardError: the folder contains other shards, or features with another source or other
                settings.
        """
        self.path, self.parts = path, path / "unfinished"
        self._source, self._encoding, self._max_skipped = source, encoding, max_skipped
        self._fingerprints = [source.fingerprint(shard) for shard in range(source.num_shards)]
        self._check_existing_features()

    def open(self) -> None:
        """Prepare the folder and remove temporary files; no other process may use it meanwhile.

        Raises:
            ShardError: as in the constructor; or the folder cannot be written, or its shards
                skipped more samples than `pack.max_bad_samples` allows.
        """
        self._check_existing_features()
        if (num_skipped := self._num_skipped_in_shards()) > self._max_skipped:
            raise ShardError(
                f"{self.path} was encoded with {num_skipped} samples skipped, but"
                f" pack.max_bad_samples is {self._max_skipped}"
            )
        make_output_dir(self.parts)
        with _writing(self.path):
            identity = {
                "source": _digest(self._fingerprints),
                "features": dataclasses.asdict(self._encoding),
            }
            write_json(self.path / METADATA_FILE, identity)
            for pattern in (
                f"*{TEMP_SUFFIX}",
                f"unfinished/*/*{TEMP_SUFFIX}",
                f"unfinished/*/*{SKIPPED}",
            ):
                for file in self.path.glob(pattern):
                    file.unlink()

    def missing_videos(self) -> list[SampleRef]:
        """Return the videos that still have to be encoded, in the order of the source."""
        return [
            SampleRef(shard, number)
            for shard in self.missing_shards()
            for number in sorted(self._videos_of(shard) - self._done(shard))
        ]

    def missing_shards(self) -> list[int]:
        """Return the shards that still have to be written."""
        return [shard for shard in range(self._source.num_shards) if not self._is_finished(shard)]

    def is_shard_complete(self, shard: int) -> bool:
        """Return whether all videos of a shard are encoded or skipped."""
        return self._videos_of(shard) <= self._done(shard)

    def save(self, ref: SampleRef, stored: StoredTokens, metadata: bytes) -> None:
        """Save an encoded video; `metadata` is the content of its `KEY.json`.

        Raises:
            ShardError: the disk is full or cannot be written.
        """
        sample = json.loads(metadata)
        part = self._part(ref, ".tar")
        with _writing(part) as unfinished:
            with unfinished.open("wb") as stream:
                size = write_member(
                    stream,
                    f"{sample['key']}.{FEATURES_SUFFIX}",
                    to_safetensors(stored, self._encoding),
                )
                size += write_member(stream, f"{sample['key']}.json", [metadata])
                _fsync(stream)
            os.replace(unfinished, part)
            seconds, counts = sample["duration_seconds"], (len(stored), len(sample["questions"]))
            record = IndexEntry(
                self._tar(ref.shard).name, sample["key"], "video", 0, size, seconds, *counts
            )
            write_json(self._part(ref, KEPT), dataclasses.asdict(record))

    def skip(self, ref: SampleRef, reason: str) -> None:
        """Record a sample that cannot be read.

        Raises:
            ShardError: more samples are skipped than `pack.max_bad_samples` allows.
        """
        _, name = self._source.samples(ref.shard)[ref.index]
        note = self._part(ref, SKIPPED)
        with _writing(note):
            write_json(note, dataclasses.asdict(SkippedSample(name, reason)))
        num_skipped = self._num_skipped_in_shards() + len(list(self.parts.glob(f"*/*{SKIPPED}")))
        if num_skipped > self._max_skipped:
            raise ShardError(
                f"{reason}. Repair or remove it, or increase pack.max_bad_samples"
                f" (now {self._max_skipped})"
            )

    def write_shard(self, shard: int) -> None:
        """Assemble a shard from its encoded videos, and remove their single files.

        Raises:
            ShardError: the disk is full, or more samples failed than `pack.max_bad_samples` allows.
        """
        tar = self._tar(shard)
        with _writing(tar) as unfinished:
            with unfinished.open("wb") as stream:
                results = [
                    self._append(stream, SampleRef(shard, number))
                    for number in range(len(self._source.samples(shard)))
                ]
                stream.write(END_OF_ARCHIVE)
                _fsync(stream)
            publish_shard(
                unfinished,
                tar,
                self._source.config,
                _digest([self._fingerprints[shard], dataclasses.asdict(self._encoding)]),
                tuple(result for result in results if isinstance(result, IndexEntry)),
                (
                    *self._source.skipped(shard),
                    *(result for result in results if isinstance(result, SkippedSample)),
                ),
                self._encoding,
            )
        shutil.rmtree(self._part(SampleRef(shard, 0), "").parent, ignore_errors=True)

    def write_totals(self) -> PackSummary:
        """Write the totals, after all shards are finished."""
        summary = summarize(
            [read_index(self._index(shard)) for shard in range(self._source.num_shards)]
        )
        with _writing(self.path):
            write_json(self.path / TOTALS_NAME, dataclasses.asdict(summary))
            shutil.rmtree(self.parts)
        return summary

    def _append(self, stream: BinaryIO, ref: SampleRef) -> IndexEntry | SkippedSample:
        """Append a sample to a tar; if it cannot be read, record it as skipped instead."""
        start = stream.tell()
        if self._part(ref, SKIPPED).is_file():
            return SkippedSample(**_read_json(self._part(ref, SKIPPED)))
        if ref.index in self._videos_of(ref.shard):
            record = IndexEntry(**_read_json(self._part(ref, KEPT)))
            with self._part(ref, ".tar").open("rb") as part:
                shutil.copyfileobj(part, stream, COPIED_BYTES)
            if stream.tell() - start != record.num_bytes:
                raise ShardError(
                    f"{self._part(ref, '.tar')} is damaged."
                    " Delete it and the .json beside it, and encode again"
                )
            return dataclasses.replace(record, offset=start)
        try:
            return self._source.copy_sample(ref, stream)
        except (ShardError, ImageError) as error:
            stream.seek(start)
            stream.truncate()
            self.skip(ref, str(error))
            return SkippedSample(**_read_json(self._part(ref, SKIPPED)))

    def _check_existing_features(self) -> None:
        file = self.path / METADATA_FILE
        if file.is_file():
            identity = _read_json(file)
            changes = diff_feature_metadata(FeatureMetadata(**identity["features"]), self._encoding)
            if identity["source"] != _digest(self._fingerprints):
                changes.append("the source (shards, files or questions) differs")
            if changes:
                raise ShardError(
                    f"{self.path} contains features made with other inputs: {'; '.join(changes)}."
                    " Restore these, encode into another folder, or delete this one"
                )
        elif any(self.path.glob(f"{SHARD_PATTERN}.json")):
            raise ShardError(
                f"{self.path} contains shards that are not features. Encode into another folder"
            )

    def _num_skipped_in_shards(self) -> int:
        """Count the samples skipped by encoding in the finished shards."""
        finished = set(range(self._source.num_shards)) - set(self.missing_shards())
        return sum(
            len(read_index(self._index(shard)).skipped) - len(self._source.skipped(shard))
            for shard in finished
        )

    def _is_finished(self, shard: int) -> bool:
        tar, index = self._tar(shard), self._index(shard)
        return (
            index.is_file() and tar.is_file() and tar.stat().st_size == read_index(index).num_bytes
        )

    def _videos_of(self, shard: int) -> set[int]:
        return {
            number
            for number, (kind, _) in enumerate(self._source.samples(shard))
            if kind == "video"
        }

    def _done(self, shard: int) -> set[int]:
        """Return the indices of an unfinished shard's samples that are encoded or skipped."""
        files = self._part(SampleRef(shard, 0), "").parent.glob("*")
        return {int(file.stem) for file in files if file.suffix in (KEPT, SKIPPED)}

    def _tar(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.tar"

    def _index(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.json"

    def _part(self, ref: SampleRef, suffix: str) -> Path:
        return self.parts / f"{ref.shard:06d}" / f"{ref.index:04d}{suffix}"


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Provide a temporary path for an atomic write, and remove what is left there at the end.

    Raises:
        ShardError: the disk is full or cannot be written.
    """
    unfinished = temp_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
    except OSError as error:
        advice = "Free disk space and run the same command again. Finished videos are kept"
        raise ShardError(f"{path} could not be written ({error.strerror}). {advice}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _fsync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    return parse_json(path.read_bytes(), str(path))


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
