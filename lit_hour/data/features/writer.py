"""Encoded videos, one by one -> a folder of feature shards. Each video is kept at once, whatever happens afterwards.

TARGET/features.json                   what the features are made from and by; another start has to have the same
TARGET/unfinished/000003/0007.tar      the eighth subject of the fourth shard, a video, as it will lie in the shard
TARGET/unfinished/000003/0007.json     its line of the index; written last, so its presence says that the video is there
TARGET/unfinished/000003/0007.skipped  or else why it cannot be read; another start tries again
TARGET/000003.tar, 000003.json         the shard and its index; once they are there, its single videos go away
TARGET/index.json                      totals; written last of all
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
KEPT, SKIPPED = (
    ".json",
    ".skipped",
)  # how a subject in the unfinished folder ends that nobody has to look at again
COPIED_BYTES = 2**24  # at once


class FeatureWriter:
    """The folder that encoding fills; by several processes, if each has videos and shards of its own."""

    def __init__(
        self, path: Path, source: FeatureSource, encoding: FeatureMetadata, max_skipped: int
    ) -> None:
        """Look at what is there, and change nothing.

        Raises:
            ShardError: it holds something else, or features that were made from something else or otherwise.
        """
        self.path, self.parts = path, path / "unfinished"
        self._source, self._encoding, self._max_skipped = source, encoding, max_skipped
        self._made_from = [source.fingerprint(shard) for shard in range(source.num_shards)]
        self._refuse_other_features()

    def open(self) -> None:
        """Make the folder ready. Nobody else may be at work there.

        Raises:
            ShardError: as before; or it cannot be written, or was filled with more skipped than `pack.max_bad_samples` allows.
        """
        self._refuse_other_features()
        if (num_skipped := self._num_skipped_in_shards()) > self._max_skipped:
            raise ShardError(
                f"{self.path} was encoded without {num_skipped} subjects, and pack.max_bad_samples is {self._max_skipped}"
            )
        make_output_dir(self.parts)
        with _writing(self.path):
            identity = {
                "source": _digest(self._made_from),
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
        """The videos that are still to be encoded, in the order of the source."""
        return [
            SampleRef(shard, number)
            for shard in self.missing_shards()
            for number in sorted(self._videos_of(shard) - self._done(shard))
        ]

    def missing_shards(self) -> list[int]:
        """The shards that are still to be put together."""
        return [shard for shard in range(self._source.num_shards) if not self._is_finished(shard)]

    def is_shard_complete(self, shard: int) -> bool:
        """Whether all videos of a shard are there."""
        return self._videos_of(shard) <= self._done(shard)

    def save(self, place: SampleRef, stored: StoredTokens, metadata: bytes) -> None:
        """Keep an encoded video, of which `metadata` is the content of its `KEY.json`.

        Raises:
            ShardError: the disk is full, or cannot be written.
        """
        known = json.loads(metadata)
        part = self._part(place, ".tar")
        with _writing(part) as unfinished:
            with unfinished.open("wb") as stream:
                size = write_member(
                    stream,
                    f"{known['key']}.{FEATURES_SUFFIX}",
                    to_safetensors(stored, self._encoding),
                )
                size += write_member(stream, f"{known['key']}.json", [metadata])
                _hand_to_disk(stream)
            os.replace(unfinished, part)
            seconds, counts = known["duration_seconds"], (len(stored), len(known["questions"]))
            record = IndexEntry(
                self._tar(place.shard).name, known["key"], "video", 0, size, seconds, *counts
            )
            write_json(self._part(place, KEPT), dataclasses.asdict(record))

    def skip(self, place: SampleRef, damage: str) -> None:
        """Note a subject that cannot be read.

        Raises:
            ShardError: there are more of them than `pack.max_bad_samples` allows.
        """
        _, name = self._source.samples(place.shard)[place.index]
        note = self._part(place, SKIPPED)
        with _writing(note):
            write_json(note, dataclasses.asdict(SkippedSample(name, damage)))
        num_skipped = self._num_skipped_in_shards() + len(list(self.parts.glob(f"*/*{SKIPPED}")))
        if num_skipped > self._max_skipped:
            raise ShardError(
                f"{damage}; mend or remove it, or let more fail with pack.max_bad_samples (now {self._max_skipped})"
            )

    def write_shard(self, shard: int) -> None:
        """Put a shard together whose videos are all there, and remove the single ones.

        Raises:
            ShardError: the disk is full, or more subjects failed than `pack.max_bad_samples` allows.
        """
        tar = self._tar(shard)
        with _writing(tar) as unfinished:
            with unfinished.open("wb") as stream:
                found = [
                    self._append(stream, SampleRef(shard, number))
                    for number in range(len(self._source.samples(shard)))
                ]
                stream.write(END_OF_ARCHIVE)
                _hand_to_disk(stream)
            publish_shard(
                unfinished,
                tar,
                self._source.config,
                _digest([self._made_from[shard], dataclasses.asdict(self._encoding)]),
                tuple(each for each in found if isinstance(each, IndexEntry)),
                (
                    *self._source.skipped(shard),
                    *(each for each in found if isinstance(each, SkippedSample)),
                ),
                self._encoding,
            )
        shutil.rmtree(self._part(SampleRef(shard, 0), "").parent, ignore_errors=True)

    def write_totals(self) -> PackSummary:
        """Write the totals of all shards, which are there now."""
        summary = summarize(
            [read_index(self._index(shard)) for shard in range(self._source.num_shards)]
        )
        with _writing(self.path):
            write_json(self.path / TOTALS_NAME, dataclasses.asdict(summary))
            shutil.rmtree(self.parts)
        return summary

    def _append(self, stream: BinaryIO, place: SampleRef) -> IndexEntry | SkippedSample:
        """Write a subject at the end of a tar; nothing, if it cannot be read."""
        start = stream.tell()
        if self._part(place, SKIPPED).is_file():
            return SkippedSample(**_read_json(self._part(place, SKIPPED)))
        if place.index in self._videos_of(place.shard):
            record = IndexEntry(**_read_json(self._part(place, KEPT)))
            with self._part(place, ".tar").open("rb") as part:
                shutil.copyfileobj(part, stream, COPIED_BYTES)
            if stream.tell() - start != record.num_bytes:
                raise ShardError(
                    f"{self._part(place, '.tar')} is damaged: delete it and the .json beside it, and encode again"
                )
            return dataclasses.replace(record, offset=start)
        try:
            return self._source.copy_sample(place, stream)
        except (ShardError, ImageError) as error:
            stream.seek(start)
            stream.truncate()
            self.skip(place, str(error))
            return SkippedSample(**_read_json(self._part(place, SKIPPED)))

    def _refuse_other_features(self) -> None:
        file = self.path / METADATA_FILE
        if file.is_file():
            identity = _read_json(file)
            changes = diff_feature_metadata(FeatureMetadata(**identity["features"]), self._encoding)
            if identity["source"] != _digest(self._made_from):
                changes.append("they are from other shards, files or questions")
            if changes:
                raise ShardError(
                    f"{self.path} holds features that were made otherwise: {'; '.join(changes)}. Set these back, encode into"
                    " another folder, or delete this one"
                )
        elif any(self.path.glob(f"{SHARD_PATTERN}.json")):
            raise ShardError(
                f"{self.path} holds shards that encoding has not made: encode into another folder"
            )

    def _num_skipped_in_shards(self) -> int:
        """Subjects that finished shards lack and that the source has."""
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
        """The subjects of an unfinished shard that are kept or skipped."""
        files = self._part(SampleRef(shard, 0), "").parent.glob("*")
        return {int(file.stem) for file in files if file.suffix in (KEPT, SKIPPED)}

    def _tar(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.tar"

    def _index(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.json"

    def _part(self, place: SampleRef, suffix: str) -> Path:
        return self.parts / f"{place.shard:06d}" / f"{place.index:04d}{suffix}"


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """The name under which a file is written first; whatever is left under it goes away.

    Raises:
        ShardError: the disk is full, or cannot be written.
    """
    unfinished = temp_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
    except OSError as error:
        advice = "make room there and run the same command again; the finished videos are kept"
        raise ShardError(f"{path} could not be written: {error.strerror}: {advice}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _hand_to_disk(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    return parse_json(path.read_bytes(), str(path))


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
