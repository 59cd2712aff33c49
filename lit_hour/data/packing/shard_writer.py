"""The plan of one shard in, its tar and then its index on disk; pictures go from their reader into the tar as they come."""

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

END_OF_ARCHIVE = bytes(1024)  # two empty blocks, by the tar format


class PackingAborted(Exception):
    """Packing stops because another shard failed; this one is given up."""


class PackState:
    """What those who write shards side by side tell each other: subjects done, subjects skipped, and whether to stop."""

    def __init__(self, *, num_done: int, num_skipped: int, max_skipped: int) -> None:
        self.num_done = num_done
        self.num_skipped = num_skipped
        self.max_skipped = max_skipped
        self.stop = Event()
        self._lock = Lock()

    def finish_subject(self) -> None:
        """Count a subject, for the progress bar."""
        with self._lock:
            self.num_done += 1

    def skip_subject(self, error: VideoError | ImageError) -> None:
        """Count a subject that cannot be packed.

        Raises:
            VideoError, ImageError: there were more of them than `pack.max_bad_samples` allows.
        """
        with self._lock:
            self.num_skipped += 1
            if self.num_skipped > self.max_skipped:
                advice = f"mend or remove it, or let more fail with pack.max_bad_samples (now {self.max_skipped})"
                raise type(error)(f"{error}; {advice}") from error

    def check_stop(self) -> None:
        """Give up when another shard failed.

        Raises:
            PackingAborted: it did.
        """
        if self.stop.is_set():
            raise PackingAborted


def write_shard(plan: ShardPlan, progress: PackState, reader: DecodeWorker) -> None:
    """Make one shard: the tar under a name of its own, then under its real name, then its index.

    Raises:
        ShardError: the disk is full or cannot be written.
        VideoError, ImageError: more subjects failed than `pack.max_bad_samples` allows.
        PackingStoppedError: another shard failed.
    """
    unfinished = temp_path(plan.tar)
    try:
        with unfinished.open("wb") as stream:
            subjects, skipped = _write_subjects(stream, plan, progress, reader)
        publish_shard(unfinished, plan.tar, plan.config, plan.fingerprint, subjects, skipped)
    except OSError as error:
        advice = f"make room in {plan.tar.parent} and run the same command again; the finished shards are kept"
        raise ShardError(f"{plan.tar} could not be written: {error.strerror}: {advice}") from error
    finally:
        unfinished.unlink(missing_ok=True)
        temp_path(plan.index).unlink(missing_ok=True)


def publish_shard(
    unfinished: Path,
    tar: Path,
    settings: dict[str, Any],
    fingerprint: str,
    subjects: tuple[IndexEntry, ...],
    skipped: tuple[SkippedSample, ...],
    encoding: FeatureMetadata | None = None,
) -> None:
    """Give a tar that is written to its end its name, then write its index; what they say is as in `ShardIndex`."""
    index = ShardIndex(
        shard=tar.name,
        num_bytes=unfinished.stat().st_size,
        sha256=_sha256(unfinished),
        config=settings,
        fingerprint=fingerprint,
        entries=subjects,
        skipped=skipped,
        features=encoding,
    )
    os.replace(unfinished, tar)
    write_index(tar.with_suffix(".json"), index)


def open_members(stream: BinaryIO) -> TarWriter:
    """A writer of members that all have the same time and owner, so that the same files give the same bytes."""
    return TarWriter(
        stream, user="", group="", mode=0o644, mtime=0, encoder=False, format="GNU_FORMAT"
    )


def sample_json(
    subject: SampleSpec | StoredSample, duration_seconds: float, timestamps_seconds: Sequence[float]
) -> bytes:
    """The content of a subject's `KEY.json`."""
    metadata = {
        "version": VERSION,
        "key": subject.key,
        "modality": subject.modality,
        "files": subject.files,
        "duration_seconds": duration_seconds,
        "timestamps_seconds": timestamps_seconds,
        "questions": [question_record(question) for question in subject.questions],
    }
    return json.dumps(metadata, ensure_ascii=False).encode()


def _write_subjects(
    stream: BinaryIO, plan: ShardPlan, progress: PackState, reader: DecodeWorker
) -> tuple[tuple[IndexEntry, ...], tuple[SkippedSample, ...]]:
    """Write every subject that can be read, and the end of the archive; whatever a failed one left is cut off."""
    records, skipped = [], []
    for subject in plan.samples:
        progress.check_stop()
        start = end = stream.tell()
        try:
            files = DecodeRequest(plan.folder, subject, plan.video, plan.config["jpeg_quality"])
            records.append(write_sample(stream, plan.tar.name, subject, reader.read(files)))
            end = start + records[-1].num_bytes
        except (VideoError, ImageError) as error:
            progress.skip_subject(error)
            skipped.append(SkippedSample(subject.name, str(error)))
        stream.seek(end)
        stream.truncate()
        progress.finish_subject()
    stream.write(END_OF_ARCHIVE)
    stream.flush()
    os.fsync(stream.fileno())
    return tuple(records), tuple(skipped)


def write_sample(
    stream: BinaryIO, shard: str, subject: SampleSpec, read: Iterable[EncodedImage | SampleSummary]
) -> IndexEntry:
    """Write a subject's frames or pictures and, last, `KEY.json`: only then is it known which frames could be read.

    Raises:
        VideoError, ImageError: as `read` does.
    """
    start, num_frames = stream.tell(), 0
    with open_members(stream) as tar:
        for each in read:
            if isinstance(each, EncodedImage):
                tar.write({"__key__": subject.key, f"{num_frames:06d}.{each.suffix}": each.content})
                num_frames += 1
            else:
                ending = each
        content = sample_json(subject, ending.duration_seconds, ending.timestamps_seconds)
        tar.write({"__key__": subject.key, "json": content})
        size = tar.tarstream.offset
    counts = num_frames, len(subject.questions)
    return IndexEntry(
        shard, subject.key, subject.modality, start, size, ending.duration_seconds, *counts
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
