"""Write one shard: its tar, while its images are decoded, and then its index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO, TypeAlias

from webdataset import TarWriter

from lit_hour.data.features.format import FeatureMetadata
from lit_hour.data.packing.decode_worker import (
    DecodeRequest,
    EncodedImage,
    SampleSummary,
)
from lit_hour.data.packing.sample_subtitles import load_sample_subtitles
from lit_hour.data.packing.shard_plan import ShardPlan
from lit_hour.data.questions.record import SampleSpec, question_record
from lit_hour.data.shards.reader import StoredSample
from lit_hour.data.shards.shard_index import (
    VERSION,
    FileStamp,
    IndexEntry,
    ShardIndex,
    SkippedSample,
    write_index,
)
from lit_hour.errors import ImageError, QuestionError, ShardError, VideoError
from lit_hour.io.atomic import temp_path
from lit_hour.io.hashing import hash_path
from lit_hour.text.chat_template import count_text_bytes

# Yields the images of a sample, and last its summary, as `DecodeWorker.read` does.
ReadSample: TypeAlias = Callable[[DecodeRequest], Iterator[EncodedImage | SampleSummary]]
END_OF_ARCHIVE = bytes(1024)  # two empty blocks, by the tar format


class PackingAborted(Exception):  # noqa: N818  (private signal between threads)
    """Another shard failed, and this one is given up."""


class PackState:
    """State shared by the threads that write shards: counts of samples, and a stop flag."""

    def __init__(self, *, num_done: int, num_skipped: int, max_skipped: int) -> None:
        self.num_done = num_done
        self.num_skipped = num_skipped
        self.max_skipped = max_skipped
        self.stop = Event()
        self._lock = Lock()

    def finish_sample(self) -> None:
        """Count a sample, for the progress bar."""
        with self._lock:
            self.num_done += 1

    def skip_sample(self, error: VideoError | ImageError | QuestionError) -> None:
        """Count a sample that cannot be packed, or a part of it.

        Raises:
            VideoError, ImageError, QuestionError: there are more than `pack.max_bad_samples`.
        """
        with self._lock:
            self.num_skipped += 1
            if self.num_skipped > self.max_skipped:
                advice = (
                    f"Repair or remove it, or raise pack.max_bad_samples (now {self.max_skipped})."
                )
                raise type(error)(f"{error} {advice}") from error

    def check_stop(self) -> None:
        """Stop when another shard has failed.

        Raises:
            PackingAborted: it has.
        """
        if self.stop.is_set():
            raise PackingAborted


def write_shard(plan: ShardPlan, state: PackState, read: ReadSample) -> None:
    """Write one shard: the tar under a temporary name, then renamed, then its index.

    Raises:
        ShardError: the disk is full or cannot be written.
        VideoError, ImageError: more samples failed than `pack.max_bad_samples`.
        QuestionError: the same with cues of subtitles.
        PackingAborted: another shard failed.
    """
    temp = temp_path(plan.tar)
    try:
        with temp.open("wb") as stream:
            entries, skipped = _write_samples(stream, plan, state, read)
        publish_shard(
            temp,
            plan.tar,
            plan.config,
            plan.fingerprint,
            entries,
            skipped,
            files=plan.stamp_files(),
        )
    except OSError as error:
        raise ShardError(
            f"Cannot write {plan.tar}: {error.strerror}. Free space in {plan.tar.parent} and run"
            " the same command again; finished shards are kept."
        ) from error
    finally:
        temp.unlink(missing_ok=True)


def publish_shard(
    temp: Path,
    tar: Path,
    config: dict[str, Any],
    fingerprint: str,
    entries: tuple[IndexEntry, ...],
    skipped: tuple[SkippedSample, ...],
    features: FeatureMetadata | None = None,
    files: dict[str, FileStamp] | None = None,
) -> None:
    """Rename a complete tar, then write its index; the other arguments are as in `ShardIndex`."""
    index = ShardIndex(
        shard=tar.name,
        num_bytes=temp.stat().st_size,
        sha256=hash_path(temp),
        config=config,
        fingerprint=fingerprint,
        entries=entries,
        skipped=skipped,
        features=features,
        files=files or {},
    )
    os.replace(temp, tar)
    write_index(tar.with_suffix(".json"), index)


def sample_json(sample: SampleSpec | StoredSample, summary: SampleSummary) -> bytes:
    """Return the content of a sample's `KEY.json`."""
    metadata: dict[str, Any] = {
        "version": VERSION,
        "key": sample.key,
        "modality": sample.modality,
        "files": sample.files,
        "duration_seconds": summary.duration_seconds,
        "timestamps_seconds": summary.timestamps_seconds,
        "questions": [question_record(question) for question in sample.questions],
    }
    if sample.clip_seconds is not None:
        start = sample.clip_seconds[0]
        metadata["clip_seconds"] = (start, start + summary.duration_seconds)
    if sample.system_prompt:
        metadata["system_prompt"] = sample.system_prompt
    if sample.subtitles:
        metadata["subtitles"] = [
            (subtitle.start_seconds, subtitle.end_seconds, subtitle.text)
            for subtitle in sample.subtitles
        ]
    return json.dumps(metadata, ensure_ascii=False).encode()


def _write_samples(
    stream: BinaryIO, plan: ShardPlan, state: PackState, read: ReadSample
) -> tuple[tuple[IndexEntry, ...], tuple[SkippedSample, ...]]:
    """Write every sample that can be decoded, and the end of the archive."""
    entries, skipped = [], list(plan.skipped)
    for planned in plan.samples:
        state.check_stop()
        start = end = stream.tell()
        sample, invalid = load_sample_subtitles(plan.folder, planned)
        for reason in invalid:
            state.skip_sample(QuestionError(reason))
            skipped.append(SkippedSample(sample.subtitle_file, reason))
        try:
            request = DecodeRequest(plan.folder, sample, plan.video, plan.config["jpeg_quality"])
            entries.append(write_sample(stream, plan.tar.name, sample, read(request)))
            end = start + entries[-1].num_bytes
        except (VideoError, ImageError) as error:
            state.skip_sample(error)
            skipped.append(SkippedSample(sample.name, str(error)))
        stream.seek(end)
        stream.truncate()  # members of a failed sample, or the end of an archive
        state.finish_sample()
    stream.write(END_OF_ARCHIVE)
    stream.flush()
    os.fsync(stream.fileno())
    return tuple(entries), tuple(skipped)


def write_sample(
    stream: BinaryIO,
    shard: str,
    sample: SampleSpec | StoredSample,
    messages: Iterable[EncodedImage | SampleSummary],
) -> IndexEntry:
    """Write a sample's images and then `KEY.json`: only then are the readable frames known.

    All members have the same time and owner, so that the same files give the same bytes.

    Raises:
        VideoError, ImageError: as iterating `messages` does.
    """
    start, num_frames = stream.tell(), 0
    with TarWriter(
        stream, user="", group="", mode=0o644, mtime=0, encoder=False, format="GNU_FORMAT"
    ) as tar:
        for message in messages:
            if isinstance(message, EncodedImage):
                name = f"{num_frames:06d}.{message.suffix}"
                tar.write({"__key__": sample.key, name: message.content})
                num_frames += 1
            else:
                summary = message
        tar.write({"__key__": sample.key, "json": sample_json(sample, summary)})
        num_bytes = tar.tarstream.offset
    return IndexEntry(
        shard=shard,
        key=sample.key,
        modality=sample.modality,
        offset=start,
        num_bytes=num_bytes,
        duration_seconds=summary.duration_seconds,
        num_frames=num_frames,
        num_questions=len(sample.questions),
        size_pixels=summary.size_pixels,
        text_bytes=tuple(
            count_text_bytes(question, sample.system_prompt) for question in sample.questions
        ),
    )
