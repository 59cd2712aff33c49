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

from lit_hour.data.features.format import Encoding
from lit_hour.data.packing.decode_worker import Ending, Picture, SubjectFiles, SubjectReader
from lit_hour.data.packing.shard_plan import ShardPlan
from lit_hour.data.questions.record import Subject, question_record
from lit_hour.data.shards.reader import StoredSubject
from lit_hour.data.shards.shard_index import (
    VERSION,
    ShardIndex,
    SkippedSubject,
    SubjectRecord,
    write_index,
)
from lit_hour.errors import ImageError, ShardError, VideoError
from lit_hour.io.atomic import unfinished_path

END_OF_ARCHIVE = bytes(1024)  # two empty blocks, by the tar format


class PackingStoppedError(Exception):
    """Packing stops because another shard failed; this one is given up."""


class Progress:
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
            PackingStoppedError: it did.
        """
        if self.stop.is_set():
            raise PackingStoppedError


def write_shard(plan: ShardPlan, progress: Progress, reader: SubjectReader) -> None:
    """Make one shard: the tar under a name of its own, then under its real name, then its index.

    Raises:
        ShardError: the disk is full or cannot be written.
        VideoError, ImageError: more subjects failed than `pack.max_bad_samples` allows.
        PackingStoppedError: another shard failed.
    """
    unfinished = unfinished_path(plan.tar)
    try:
        with unfinished.open("wb") as stream:
            subjects, skipped = _write_subjects(stream, plan, progress, reader)
        publish_shard(unfinished, plan.tar, plan.settings, plan.fingerprint, subjects, skipped)
    except OSError as error:
        advice = f"make room in {plan.tar.parent} and run the same command again; the finished shards are kept"
        raise ShardError(f"{plan.tar} could not be written: {error.strerror}: {advice}") from error
    finally:
        unfinished.unlink(missing_ok=True)
        unfinished_path(plan.index).unlink(missing_ok=True)


def publish_shard(
    unfinished: Path,
    tar: Path,
    settings: dict[str, Any],
    fingerprint: str,
    subjects: tuple[SubjectRecord, ...],
    skipped: tuple[SkippedSubject, ...],
    encoding: Encoding | None = None,
) -> None:
    """Give a tar that is written to its end its name, then write its index; what they say is as in `ShardIndex`."""
    index = ShardIndex(
        shard=tar.name,
        bytes=unfinished.stat().st_size,
        sha256=_sha256(unfinished),
        settings=settings,
        fingerprint=fingerprint,
        subjects=subjects,
        skipped=skipped,
        encoding=encoding,
    )
    os.replace(unfinished, tar)
    write_index(tar.with_suffix(".json"), index)


def open_members(stream: BinaryIO) -> TarWriter:
    """A writer of members that all have the same time and owner, so that the same files give the same bytes."""
    return TarWriter(
        stream, user="", group="", mode=0o644, mtime=0, encoder=False, format="GNU_FORMAT"
    )


def subject_json(
    subject: Subject | StoredSubject, duration_seconds: float, timestamps_seconds: Sequence[float]
) -> bytes:
    """The content of a subject's `KEY.json`."""
    metadata = {
        "version": VERSION,
        "key": subject.key,
        "kind": subject.kind,
        "files": subject.files,
        "duration_seconds": duration_seconds,
        "timestamps_seconds": timestamps_seconds,
        "questions": [question_record(question) for question in subject.questions],
    }
    return json.dumps(metadata, ensure_ascii=False).encode()


def _write_subjects(
    stream: BinaryIO, plan: ShardPlan, progress: Progress, reader: SubjectReader
) -> tuple[tuple[SubjectRecord, ...], tuple[SkippedSubject, ...]]:
    """Write every subject that can be read, and the end of the archive; whatever a failed one left is cut off."""
    records, skipped = [], []
    for subject in plan.subjects:
        progress.check_stop()
        start = end = stream.tell()
        try:
            files = SubjectFiles(plan.folder, subject, plan.video, plan.settings["jpeg_quality"])
            records.append(write_subject(stream, plan.tar.name, subject, reader.read(files)))
            end = start + records[-1].size
        except (VideoError, ImageError) as error:
            progress.skip_subject(error)
            skipped.append(SkippedSubject(subject.name, str(error)))
        stream.seek(end)
        stream.truncate()
        progress.finish_subject()
    stream.write(END_OF_ARCHIVE)
    stream.flush()
    os.fsync(stream.fileno())
    return tuple(records), tuple(skipped)


def write_subject(
    stream: BinaryIO, shard: str, subject: Subject, read: Iterable[Picture | Ending]
) -> SubjectRecord:
    """Write a subject's frames or pictures and, last, `KEY.json`: only then is it known which frames could be read.

    Raises:
        VideoError, ImageError: as `read` does.
    """
    start, num_frames = stream.tell(), 0
    with open_members(stream) as tar:
        for each in read:
            if isinstance(each, Picture):
                tar.write({"__key__": subject.key, f"{num_frames:06d}.{each.suffix}": each.content})
                num_frames += 1
            else:
                ending = each
        content = subject_json(subject, ending.duration_seconds, ending.timestamps_seconds)
        tar.write({"__key__": subject.key, "json": content})
        size = tar.tarstream.offset
    counts = num_frames, len(subject.questions)
    return SubjectRecord(
        shard, subject.key, subject.kind, start, size, ending.duration_seconds, *counts
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
