"""The plan of one shard in, its tar and then its index on disk.

Frames go from the decoder into the tar as they come. Pictures are stored as the files that they are, once they decode.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, BinaryIO

from webdataset import TarWriter

from lit_hour.data.encoding import Encoding
from lit_hour.data.index import VERSION, ShardIndex, SkippedSubject, SubjectRecord, unfinished_path, write_index
from lit_hour.data.plan import ShardPlan
from lit_hour.data.questions import question_record
from lit_hour.data.shards import StoredSubject
from lit_hour.data.subject import Subject
from lit_hour.errors import ImageError, ShardError, VideoError
from lit_hour.image.read import image_suffix, read_image
from lit_hour.image.squares import load_image_set
from lit_hour.video.decode import probe, read_frames
from lit_hour.video.sampling import sample_timestamps
from lit_hour.video.transform import encode_jpeg

END_OF_ARCHIVE = bytes(1024)  # two empty blocks, by the tar format


class PackingStoppedError(Exception):
    """Packing stops because another shard failed; this one is given up."""


class Progress:
    """What the processes that pack tell each other: subjects done, subjects skipped, and whether to stop."""

    def __init__(self, context: BaseContext, *, num_done: int, num_skipped: int, max_skipped: int) -> None:
        self.num_done = context.Value("q", num_done)
        self.num_skipped = context.Value("q", num_skipped)
        self.max_skipped = max_skipped
        self.stop = context.Event()

    def finish_subject(self) -> None:
        """Count a subject, for the progress bar."""
        with self.num_done.get_lock():
            self.num_done.value += 1

    def skip_subject(self, error: VideoError | ImageError) -> None:
        """Count a subject that cannot be packed.

        Raises:
            VideoError, ImageError: there were more of them than `pack.max_skipped` allows.
        """
        with self.num_skipped.get_lock():
            self.num_skipped.value += 1
            if self.num_skipped.value > self.max_skipped:
                advice = f"mend or remove it, or let more fail with pack.max_skipped (now {self.max_skipped})"
                raise type(error)(f"{error}; {advice}") from error

    def check_stop(self) -> None:
        """Give up when another shard failed.

        Raises:
            PackingStoppedError: it did.
        """
        if self.stop.is_set():
            raise PackingStoppedError


def write_shard(plan: ShardPlan, progress: Progress) -> None:
    """Make one shard: the tar under a name of its own, then under its real name, then its index.

    Raises:
        ShardError: the disk is full or cannot be written.
        VideoError, ImageError: more subjects failed than `pack.max_skipped` allows.
        PackingStoppedError: another shard failed.
    """
    unfinished = unfinished_path(plan.tar)
    try:
        with unfinished.open("wb") as stream:
            subjects, skipped = _write_subjects(stream, plan, progress)
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
    return TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False, format="GNU_FORMAT")


def subject_json(subject: Subject | StoredSubject, duration_seconds: float, timestamps_seconds: Sequence[float]) -> bytes:
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


def write_pictures(tar: TarWriter, folder: Path, subject: Subject, size_pixels: int) -> None:
    """Write a subject's picture files as they are, after decoding them as training will; of a text there are none.

    Raises:
        ImageError: a file cannot be read, or is damaged.
    """
    pictures = [(str(folder / file), _read_file(folder / file)) for file in subject.files]
    if subject.kind == "images":
        load_image_set(pictures, size_pixels)
    elif subject.kind == "image":
        read_image(pictures[0][1], pictures[0][0])
    for number, (name, data) in enumerate(pictures):
        tar.write({"__key__": subject.key, f"{number:06d}.{image_suffix(data, name)}": data})


def _write_subjects(
    stream: BinaryIO, plan: ShardPlan, progress: Progress
) -> tuple[tuple[SubjectRecord, ...], tuple[SkippedSubject, ...]]:
    """Write every subject that can be read, and the end of the archive; whatever a failed one left is cut off."""
    records, skipped = [], []
    for subject in plan.subjects:
        progress.check_stop()
        start = end = stream.tell()
        try:
            records.append(_write_subject(stream, plan, subject, progress))
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


def _write_subject(stream: BinaryIO, plan: ShardPlan, subject: Subject, progress: Progress) -> SubjectRecord:
    """Write a subject's frames or pictures and, last, `KEY.json`: only then is it known which frames could be read."""
    start = stream.tell()
    with open_members(stream) as tar:
        if subject.kind == "video":
            seconds, timestamps = _write_frames(tar, plan, subject, progress)
        else:
            seconds, timestamps = 0.0, []
            write_pictures(tar, plan.folder, subject, plan.video.size_pixels)
        tar.write({"__key__": subject.key, "json": subject_json(subject, seconds, timestamps)})
        size = tar.tarstream.offset
    num_frames = len(timestamps) if subject.kind == "video" else len(subject.files)
    num_questions = len(subject.questions)
    return SubjectRecord(plan.tar.name, subject.key, subject.kind, start, size, seconds, num_frames, num_questions)


def _write_frames(tar: TarWriter, plan: ShardPlan, subject: Subject, progress: Progress) -> tuple[float, list[float]]:
    """Write what can be read of a video; its duration, and the time of each frame written, in seconds."""
    path, settings = plan.folder / subject.files[0], plan.video
    seconds = probe(path).duration_seconds
    timestamps = sample_timestamps(seconds, settings.frames_per_second, settings.min_frames, settings.max_frames)
    num_frames = 0
    for frames in read_frames(path, timestamps, settings.size_pixels, settings.on_damage):
        progress.check_stop()
        for image in frames.images:
            jpeg = encode_jpeg(image, plan.settings["jpeg_quality"])
            tar.write({"__key__": subject.key, f"{num_frames:06d}.jpg": jpeg})
            num_frames += 1
    if num_frames < len(timestamps):
        seconds = timestamps[num_frames]  # a damaged video lasts until the first frame that is missing
    return seconds, timestamps[:num_frames]


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # not to be taken for a disk that cannot be written
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
