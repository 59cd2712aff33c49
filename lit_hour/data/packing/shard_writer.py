"""Write one shard, its tar and then its index; images are streamed from the decoder to the tar."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO

from webdataset import TarWriter

from lit_hour.data.features.format import FeatureMetadata
from lit_hour.data.packing.decode_worker import (
    DecodeRequest,
    DecodeWorker,
    EncodedImage,
    SampleSummary,
)
from lit_hour.data.packing.shard_plan import ShardPlan
from lit_hour.data.questions.record import SampleSpec, question_record
from lit_hour.data.shards.reader import StoredSample
from lit_hour.data.shards.shard_index import (
    VERSION,
    IndexEntry,
    ShardIndex,
    SkippedSample,
    write_index,
)
from lit_hour.errors import ImageError, ShardError, VideoError
from lit_hour.io.atomic import temp_path

END_OF_ARCHIVE = bytes(1024)  # two zero blocks, by the tar format


class PackingAborted(Exception):
    """Packing stops because another shard failed."""


class PackState:
    """Progress shared by the writer threads: samples done, samples skipped, and a stop flag."""

    def __init__(self, *, num_done: int, num_skipped: int, max_skipped: int) -> None:
        self.num_done = num_done
        self.num_skipped = num_skipped
        self.max_skipped = max_skipped
        self.stop = Event()
        self._lock = Lock()

    def finish_subject(self) -> None:
        """Count a finished sample, for the progress bar."""
        with self._lock:
            self.num_done += 1

    def skip_subject(self, error: VideoError | ImageError) -> None:
        """Count a sample that cannot be packed.

        Raises:
            VideoError, ImageError: more samples are skipped than `pack.max_bad_samples` allows.
        """
        with self._lock:
            self.num_skipped += 1
            if self.num_skipped > self.max_skipped:
                advice = "Repair or remove it, or increase pack.max_bad_samples"
                raise type(error)(f"{error}. {advice} (now {self.max_skipped})") from error

    def check_stop(self) -> None:
        """Raise if another shard failed.

        Raises:
            PackingAborted: another shard failed.
        """
        if self.stop.is_set():
            raise PackingAborted


def write_shard(plan: ShardPlan, progress: PackState, reader: DecodeWorker) -> None:
    """Write one shard: the tar under a temporary name, then its rename, then its index.

    Raises:
        ShardError: the disk is full or cannot be written.
        VideoError, ImageError: more samples failed than `pack.max_bad_samples` allows.
        PackingAborted: another shard failed.
    """
    unfinished = temp_path(plan.tar)
    try:
        with unfinished.open("wb") as stream:
            entries, skipped = _write_samples(stream, plan, progress, reader)
        publish_shard(unfinished, plan.tar, plan.config, plan.fingerprint, entries, skipped)
    except OSError as error:
        advice = (
            f"Free disk space in {plan.tar.parent} and run the same command again."
            " Finished shards are kept"
        )
        raise ShardError(f"{plan.tar} could not be written ({error.strerror}). {advice}") from error
    finally:
        unfinished.unlink(missing_ok=True)
        temp_path(plan.index).unlink(missing_ok=True)


def publish_shard(
    unfinished: Path,
    tar: Path,
    settings: dict[str, Any],
    fingerprint: str,
    entries: tuple[IndexEntry, ...],
    skipped: tuple[SkippedSample, ...],
    encoding: FeatureMetadata | None = None,
) -> None:
    """Rename a finished tar and write its index; see `ShardIndex` for the arguments."""
    index = ShardIndex(
        shard=tar.name,
        num_bytes=unfinished.stat().st_size,
        sha256=_sha256(unfinished),
        config=settings,
        fingerprint=fingerprint,
        entries=entries,
        skipped=skipped,
        features=encoding,
    )
    os.replace(unfinished, tar)
    write_index(tar.with_suffix(".json"), index)


def open_members(stream: BinaryIO) -> TarWriter:
    """Open a tar writer with constant time and owner, so that equal files give equal bytes."""
    return TarWriter(
        stream, user="", group="", mode=0o644, mtime=0, encoder=False, format="GNU_FORMAT"
    )


def sample_json(
    sample: SampleSpec | StoredSample, duration_seconds: float, timestamps_seconds: Sequence[float]
) -> bytes:
    """Return the content of a sample's `KEY.json`."""
    metadata = {
        "version": VERSION,
        "key": sample.key,
        "modality": sample.modality,
        "files": sample.files,
        "duration_seconds": duration_seconds,
        "timestamps_seconds": timestamps_seconds,
        "questions": [question_record(question) for question in sample.questions],
    }
    return json.dumps(metadata, ensure_ascii=False).encode()


def _write_samples(
    stream: BinaryIO, plan: ShardPlan, progress: PackState, reader: DecodeWorker
) -> tuple[tuple[IndexEntry, ...], tuple[SkippedSample, ...]]:
    """Write the readable samples and the end of the archive; truncate what a failed sample left."""
    entries, skipped = [], []
    for sample in plan.samples:
        progress.check_stop()
        start = end = stream.tell()
        try:
            files = DecodeRequest(plan.folder, sample, plan.video, plan.config["jpeg_quality"])
            entries.append(write_sample(stream, plan.tar.name, sample, reader.read(files)))
            end = start + entries[-1].num_bytes
        except (VideoError, ImageError) as error:
            progress.skip_subject(error)
            skipped.append(SkippedSample(sample.name, str(error)))
        stream.seek(end)
        stream.truncate()
        progress.finish_subject()
    stream.write(END_OF_ARCHIVE)
    stream.flush()
    os.fsync(stream.fileno())
    return tuple(entries), tuple(skipped)


def write_sample(
    stream: BinaryIO,
    shard: str,
    sample: SampleSpec,
    messages: Iterable[EncodedImage | SampleSummary],
) -> IndexEntry:
    """Write a sample's images and then `KEY.json`, which lists the frames that could be read.

    Raises:
        VideoError, ImageError: the sample cannot be read.
    """
    start, num_frames = stream.tell(), 0
    with open_members(stream) as tar:
        for message in messages:
            if isinstance(message, EncodedImage):
                tar.write(
                    {"__key__": sample.key, f"{num_frames:06d}.{message.suffix}": message.content}
                )
                num_frames += 1
            else:
                summary = message
        content = sample_json(sample, summary.duration_seconds, summary.timestamps_seconds)
        tar.write({"__key__": sample.key, "json": content})
        size = tar.tarstream.offset
    counts = num_frames, len(sample.questions)
    return IndexEntry(
        shard, sample.key, sample.modality, start, size, summary.duration_seconds, *counts
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
