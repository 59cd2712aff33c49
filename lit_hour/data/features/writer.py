"""Write a folder of feature shards, saving each video as soon as its features are extracted.

TARGET/features.json              what the features are made from, where that is, and how
TARGET/parts/000003/0007.tar      sample 7 of shard 3, a video, as it will be in the shard
TARGET/parts/000003/0007.json     its index entry; written last: the video is saved
TARGET/parts/000003/0007.skipped  or why it cannot be read; the next start tries again
TARGET/000003.tar, 000003.json    the shard and its index; the parts of the shard are removed
TARGET/index.json                 totals; written last of all
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
    to_safetensors,
)
from lit_hour.data.features.source import FeatureSource, SampleRef
from lit_hour.data.packing.pack import PackSummary, make_output_dir, summarize_shards, update_stamps
from lit_hour.data.packing.shard_writer import END_OF_ARCHIVE, publish_shard
from lit_hour.data.questions.record import parse_question
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
from lit_hour.io.atomic import remove_temp_files, temp_path
from lit_hour.text.chat_template import count_text_bytes

METADATA_NAME = "features.json"
ORIGIN_KEY = "origin"  # of the settings in it that name the source of the frames
SAVED_SUFFIX, SKIPPED_SUFFIX = ".json", ".skipped"  # of a part that is finished
COPY_CHUNK_BYTES = 2**24


class FeatureWriter:
    """Output folder of feature extraction, which several processes fill, each with own videos."""

    def __init__(
        self, path: Path, source: FeatureSource, metadata: FeatureMetadata, max_skipped: int
    ) -> None:
        """Inspect the folder without changing it.

        Raises:
            ShardError: it has something else, or features of another source, settings or encoder.
        """
        self.path, self.parts = path, path / "parts"
        self._source, self._metadata, self._max_skipped = source, metadata, max_skipped
        self._made_from = [source.fingerprint(shard) for shard in range(source.num_shards)]
        self._check_existing()

    def open(self) -> None:
        """Prepare the folder. No other process may use it now.

        Raises:
            ShardError: as in the constructor; or the folder cannot be written, or was filled with
                more skipped samples than `pack.max_bad_samples`.
        """
        self._check_existing()
        num_skipped = self._num_skipped_in_shards()
        if num_skipped > self._max_skipped:
            raise ShardError(
                f"{self.path} was written without {num_skipped} samples,"
                f" but pack.max_bad_samples={self._max_skipped}."
            )
        make_output_dir(self.parts)
        for shard in set(range(self._source.num_shards)) - set(self.missing_shards()):
            path = self._index(shard)
            update_stamps(path, read_index(path), self._source.stamp_files(shard))
        with _writing(self.path):
            identity = {
                "source": _hash(self._made_from),
                "features": dataclasses.asdict(self._metadata),
                ORIGIN_KEY: dataclasses.asdict(self._source.origin),
            }
            write_json(self.path / METADATA_NAME, identity)
            for folder in (self.path, *self.parts.glob("*/")):
                remove_temp_files(folder)
            for note in self.parts.glob(f"*/*{SKIPPED_SUFFIX}"):
                note.unlink()

    def missing_videos(self) -> list[SampleRef]:
        """Return the videos that are not saved yet, in the order of the source."""
        return [
            SampleRef(shard, index)
            for shard in self.missing_shards()
            for index in sorted(self._videos_of(shard) - self._finished_parts(shard))
        ]

    def missing_shards(self) -> list[int]:
        """Return the shards that are not written yet."""
        return [shard for shard in range(self._source.num_shards) if not self._is_finished(shard)]

    def is_shard_complete(self, shard: int) -> bool:
        """Return whether all videos of a shard are saved."""
        return self._videos_of(shard) <= self._finished_parts(shard)

    def save(self, ref: SampleRef, stored: StoredTokens, sample_json: bytes) -> None:
        """Save the features of a video, with the content of its `KEY.json`.

        Raises:
            ShardError: the disk is full or cannot be written.
        """
        sample = json.loads(sample_json)
        key, part = sample["key"], self._part(ref, ".tar")
        with _writing(part) as temp:
            with temp.open("wb") as stream:
                content = to_safetensors(stored, self._metadata)
                num_bytes = write_member(stream, f"{key}.{FEATURES_SUFFIX}", content)
                num_bytes += write_member(stream, f"{key}.json", [sample_json])
                _flush(stream)
            os.replace(temp, part)
            entry = IndexEntry(
                shard=self._tar(ref.shard).name,
                key=key,
                modality="video",
                offset=0,
                num_bytes=num_bytes,
                duration_seconds=sample["duration_seconds"],
                num_frames=len(stored),
                num_questions=len(sample["questions"]),
                text_bytes=tuple(
                    count_text_bytes(parse_question(question, key), sample.get("system_prompt", ""))
                    for question in sample["questions"]
                ),
            )
            write_json(self._part(ref, SAVED_SUFFIX), dataclasses.asdict(entry))

    def skip(self, ref: SampleRef, reason: str) -> None:
        """Record a sample that cannot be read.

        Raises:
            ShardError: there are more of them than `pack.max_bad_samples`.
        """
        _, name = self._source.samples(ref.shard)[ref.index]
        note = self._part(ref, SKIPPED_SUFFIX)
        with _writing(note):
            write_json(note, dataclasses.asdict(SkippedSample(name, reason)))
        num_notes = len(list(self.parts.glob(f"*/*{SKIPPED_SUFFIX}")))
        if self._num_skipped_in_shards() + num_notes > self._max_skipped:
            raise ShardError(
                f"{reason} Repair or remove it, or raise pack.max_bad_samples"
                f" (now {self._max_skipped})."
            )

    def write_shard(self, shard: int) -> None:
        """Write a shard after all of its videos are saved, and remove its parts.

        Raises:
            ShardError: the disk is full, or more samples failed than `pack.max_bad_samples`.
        """
        tar = self._tar(shard)
        with _writing(tar) as temp:
            with temp.open("wb") as stream:
                samples = [
                    self._append(stream, SampleRef(shard, index))
                    for index in range(len(self._source.samples(shard)))
                ]
                stream.write(END_OF_ARCHIVE)
                _flush(stream)
            skipped = [sample for sample in samples if isinstance(sample, SkippedSample)]
            publish_shard(
                temp,
                tar,
                self._source.config,
                _hash([self._made_from[shard], dataclasses.asdict(self._metadata)]),
                tuple(sample for sample in samples if isinstance(sample, IndexEntry)),
                (*self._source.skipped(shard), *skipped),
                self._metadata,
                self._source.stamp_files(shard),
            )
        shutil.rmtree(self._part_folder(shard), ignore_errors=True)

    def write_totals(self) -> PackSummary:
        """Write the totals of all shards, which are finished now."""
        shards = range(self._source.num_shards)
        summary = summarize_shards([read_index(self._index(shard)) for shard in shards])
        with _writing(self.path):
            write_json(self.path / TOTALS_NAME, dataclasses.asdict(summary))
            shutil.rmtree(self.parts)
        return summary

    def _append(self, stream: BinaryIO, ref: SampleRef) -> IndexEntry | SkippedSample:
        """Append a sample to a tar, unless it cannot be read."""
        start, note = stream.tell(), self._part(ref, SKIPPED_SUFFIX)
        if note.is_file():
            return SkippedSample(**_read_json(note))
        if ref.index in self._videos_of(ref.shard):
            entry = IndexEntry.from_record(_read_json(self._part(ref, SAVED_SUFFIX)))
            part = self._part(ref, ".tar")
            with part.open("rb") as content:
                shutil.copyfileobj(content, stream, COPY_CHUNK_BYTES)
            if stream.tell() - start != entry.num_bytes:
                raise ShardError(
                    f"{part} is corrupt. Delete it and the .json beside it, and run the command "
                    "again."
                )
            return dataclasses.replace(entry, offset=start)
        try:
            return self._source.copy_sample(ref, stream)
        except (ShardError, ImageError) as error:
            stream.seek(start)
            stream.truncate()
            self.skip(ref, str(error))
            return SkippedSample(**_read_json(note))

    def _check_existing(self) -> None:
        """Check that existing features have the same source, settings and encoder."""
        file = self.path / METADATA_NAME
        if file.is_file():
            identity = _read_json(file)
            changes = FeatureMetadata(**identity["features"]).describe_changes(self._metadata)
            if identity["source"] != _hash(self._made_from):
                changes.append("the shards, files or questions have changed")
            if changes:
                raise ShardError(
                    f"{self.path} has features that were extracted differently: "
                    f"{'; '.join(changes)}. Set"
                    " these back, write to another folder, or delete this one."
                )
        elif any(self.path.glob(f"{SHARD_PATTERN}.json")):
            raise ShardError(
                f"{self.path} has shards that feature extraction has not written."
                " Write to another folder."
            )

    def _num_skipped_in_shards(self) -> int:
        """Return how many samples of the source the finished shards lack."""
        finished = set(range(self._source.num_shards)) - set(self.missing_shards())
        return sum(
            len(read_index(self._index(shard)).skipped) - len(self._source.skipped(shard))
            for shard in finished
        )

    def _is_finished(self, shard: int) -> bool:
        tar, index = self._tar(shard), self._index(shard)
        if not index.is_file() or not tar.is_file():
            return False
        return tar.stat().st_size == read_index(index).num_bytes

    def _videos_of(self, shard: int) -> set[int]:
        samples = self._source.samples(shard)
        return {index for index, (modality, _) in enumerate(samples) if modality == "video"}

    def _finished_parts(self, shard: int) -> set[int]:
        """Return the samples of a shard that are saved or skipped."""
        files = self._part_folder(shard).glob("*")
        return {int(file.stem) for file in files if file.suffix in (SAVED_SUFFIX, SKIPPED_SUFFIX)}

    def _tar(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.tar"

    def _index(self, shard: int) -> Path:
        return self.path / f"{shard:06d}.json"

    def _part_folder(self, shard: int) -> Path:
        return self.parts / f"{shard:06d}"

    def _part(self, ref: SampleRef, suffix: str) -> Path:
        return self._part_folder(ref.shard) / f"{ref.index:04d}{suffix}"


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Yield the temporary path of a file, and remove what is left of it at the end.

    Raises:
        ShardError: the disk is full or cannot be written.
    """
    temp = temp_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temp
    except OSError as error:
        raise ShardError(
            f"Cannot write {path}: {error.strerror}. Free disk space and run the same command"
            " again; finished videos are kept."
        ) from error
    finally:
        temp.unlink(missing_ok=True)


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    return parse_json(path.read_bytes(), str(path))


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
