"""The plan of one shard in, its tar and then its index on disk; frames go from the decoder into the tar as they come."""

from __future__ import annotations

import hashlib
import json
import os
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, BinaryIO

from webdataset import TarWriter

from lit_hour.data.index import VERSION, ShardIndex, SkippedVideo, VideoRecord, unfinished_path, write_index
from lit_hour.data.plan import ShardPlan, VideoPlan
from lit_hour.data.questions import question_record
from lit_hour.errors import ShardError, VideoError
from lit_hour.video.decode import probe, read_frames
from lit_hour.video.sampling import sample_timestamps
from lit_hour.video.transform import encode_jpeg

END_OF_ARCHIVE = bytes(1024)  # two empty blocks, by the tar format


class PackingStoppedError(Exception):
    """Packing stops because another shard failed; this one is given up."""


class Progress:
    """What the processes that pack tell each other: videos done, videos skipped, and whether to stop."""

    def __init__(self, context: BaseContext, *, num_videos: int, num_skipped: int, max_skipped: int) -> None:
        self.num_videos = context.Value("q", num_videos)
        self.num_skipped = context.Value("q", num_skipped)
        self.max_skipped = max_skipped
        self.stop = context.Event()

    def finish_video(self) -> None:
        """Count a video, for the progress bar."""
        with self.num_videos.get_lock():
            self.num_videos.value += 1

    def skip_video(self, error: VideoError) -> None:
        """Count a video that cannot be packed.

        Raises:
            VideoError: there were more of them than `pack.max_skipped` allows.
        """
        with self.num_skipped.get_lock():
            self.num_skipped.value += 1
            if self.num_skipped.value > self.max_skipped:
                advice = f"mend or remove it, or let more videos fail with pack.max_skipped (now {self.max_skipped})"
                raise VideoError(f"{error}; {advice}") from error

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
        VideoError: more videos failed than `pack.max_skipped` allows.
        PackingStoppedError: another shard failed.
    """
    unfinished = unfinished_path(plan.tar)
    try:
        with unfinished.open("wb") as stream:
            videos, skipped = _write_videos(stream, plan, progress)
        index = ShardIndex(
            shard=plan.tar.name,
            bytes=unfinished.stat().st_size,
            sha256=_sha256(unfinished),
            settings=plan.settings,
            fingerprint=plan.fingerprint,
            videos=videos,
            skipped=skipped,
        )
        os.replace(unfinished, plan.tar)
        write_index(plan.index, index)
    except OSError as error:
        advice = f"make room in {plan.tar.parent} and run the same command again; the finished shards are kept"
        raise ShardError(f"{plan.tar} could not be written: {error.strerror}: {advice}") from error
    finally:
        unfinished.unlink(missing_ok=True)
        unfinished_path(plan.index).unlink(missing_ok=True)


def _write_videos(
    stream: BinaryIO, plan: ShardPlan, progress: Progress
) -> tuple[tuple[VideoRecord, ...], tuple[SkippedVideo, ...]]:
    """Write every video that can be read, and the end of the archive; whatever a failed video left is cut off."""
    videos, skipped = [], []
    for video in plan.videos:
        start = end = stream.tell()
        try:
            videos.append(_write_video(stream, plan, video, progress))
            end = start + videos[-1].size
        except VideoError as error:
            progress.skip_video(error)
            skipped.append(SkippedVideo(video.name, str(error)))
        stream.seek(end)
        stream.truncate()
        progress.finish_video()
    stream.write(END_OF_ARCHIVE)
    stream.flush()
    os.fsync(stream.fileno())
    return tuple(videos), tuple(skipped)


def _write_video(stream: BinaryIO, plan: ShardPlan, video: VideoPlan, progress: Progress) -> VideoRecord:
    """Write a video's frames and, last, `KEY.json`: only then is it known which frames could be read."""
    start = stream.tell()
    path, settings = plan.folder / video.name, plan.video
    seconds = probe(path).duration_seconds
    timestamps = sample_timestamps(seconds, settings.frames_per_second, settings.min_frames, settings.max_frames)
    num_frames = 0
    # Every member has the same time and owner, so that the same videos give the same bytes.
    with TarWriter(stream, user="", group="", mode=0o644, mtime=0, encoder=False, format="GNU_FORMAT") as tar:
        for frames in read_frames(path, timestamps, settings.size_pixels, settings.on_damage):
            progress.check_stop()
            for image in frames.images:
                jpeg = encode_jpeg(image, plan.settings["jpeg_quality"])
                tar.write({"__key__": video.key, f"{num_frames:06d}.jpg": jpeg})
                num_frames += 1
        if num_frames < len(timestamps):
            seconds = timestamps[num_frames]  # a damaged video lasts until the first frame that is missing
        metadata = _metadata(video, seconds, timestamps[:num_frames])
        tar.write({"__key__": video.key, "json": json.dumps(metadata, ensure_ascii=False).encode()})
        size = tar.tarstream.offset
    return VideoRecord(plan.tar.name, video.key, start, size, seconds, num_frames, len(video.questions))


def _metadata(video: VideoPlan, duration_seconds: float, timestamps_seconds: list[float]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "key": video.key,
        "source": video.name,
        "duration_seconds": duration_seconds,
        "timestamps_seconds": timestamps_seconds,
        "questions": [question_record(question) for question in video.questions],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
