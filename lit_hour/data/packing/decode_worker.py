"""A subject's files in, its pictures out, read by a process of its own: one that hangs or dies takes nothing along."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from lit_hour.config.schema import VideoConfig
from lit_hour.data.questions.record import SampleSpec
from lit_hour.errors import ImageError, ShardError, VideoError
from lit_hour.media.anyres import load_image_set
from lit_hour.media.frame_sampling import sample_timestamps
from lit_hour.media.image_reader import image_suffix, read_image
from lit_hour.media.transforms import encode_jpeg
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import read_frames
from lit_hour.media.worker_process import exit_with_parent, worker_context

READY = "ready"
SECONDS_BETWEEN_LOOKS = 0.2  # at whether to stop
SECONDS_TO_DIE = 5.0


@dataclass(frozen=True)
class DecodeRequest:
    """What is to be read, and how."""

    folder: Path
    sample: SampleSpec
    video: VideoConfig
    jpeg_quality: int


@dataclass(frozen=True)
class EncodedImage:
    """A picture as a shard stores it: a frame as JPEG, or a file as it is."""

    suffix: str
    content: bytes


@dataclass(frozen=True)
class SampleSummary:
    """What is known of a subject once all of its pictures are read: of a video, how long it is and when its frames are."""

    duration_seconds: float
    timestamps_seconds: tuple[float, ...]


class DecodeWorker:
    """Reads subjects one after the other, in a process that is started when it is needed and ended with the context."""

    def __init__(self, timeout_seconds: float, check_stop: Callable[[], None]) -> None:
        """Args: timeout_seconds: for each subject, 0 for none; check_stop: raises when reading is to be given up."""
        self._timeout_seconds, self._check_stop = timeout_seconds, check_stop
        self._running: tuple[BaseProcess, Connection] | None = None
        self._is_idle = False

    def __enter__(self) -> DecodeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, files: DecodeRequest) -> Iterator[EncodedImage | SampleSummary]:
        """The pictures of a subject as they come, and last its ending.

        Raises:
            VideoError, ImageError: it cannot be read, its decoder crashes, or it takes longer than the limit; others can.
            ShardError: the process was killed from outside.
        """
        if not files.sample.files:
            yield SampleSummary(0.0, ())
            return
        if not self._is_idle:
            self._start(files)
        deadline = time.monotonic() + (self._timeout_seconds or math.inf)
        self._send(files)
        while isinstance(message := self._receive(files, deadline), EncodedImage):
            yield message
        self._is_idle = True
        if isinstance(message, VideoError | ImageError):
            raise message
        yield message

    def _start(self, files: DecodeRequest) -> None:
        """Start a process, and wait until it has imported everything: that does not count for a subject."""
        self._end()
        context = worker_context()
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._running = process, ours
        self._receive(files, math.inf)

    def _end(self) -> None:
        if self._running is not None:
            process, connection = self._running
            process.kill()
            process.join(SECONDS_TO_DIE)  # one that waits for a dead disk may not even die now
            connection.close()
        self._running, self._is_idle = None, False

    def _send(self, files: DecodeRequest) -> None:
        assert self._running is not None
        process, connection = self._running
        self._is_idle = False
        try:
            connection.send(files)
        except OSError as error:
            raise _explain_death(process, files) from error

    def _receive(self, files: DecodeRequest, deadline: float) -> Any:
        """The next message of the process, unless it is too late for it or there will be none."""
        assert self._running is not None
        process, connection = self._running
        while True:
            self._check_stop()
            if time.monotonic() > deadline:
                self._end()
                raise _give_up(
                    files, f"takes longer than pack.timeout_seconds={self._timeout_seconds:g}"
                )
            if connection.poll(SECONDS_BETWEEN_LOOKS):
                break
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise _explain_death(process, files) from error


def _explain_death(
    process: BaseProcess, files: DecodeRequest
) -> VideoError | ImageError | ShardError | RuntimeError:
    process.join(SECONDS_TO_DIE)
    status = process.exitcode or 0
    if status == -signal.SIGKILL:
        return ShardError(
            "a packing process was killed, perhaps for want of memory: lower pack.num_workers"
        )
    if status < 0:
        return _give_up(files, f"makes its decoder crash ({signal.Signals(-status).name})")
    return RuntimeError(
        f"the process that read {files.sample.name} ended with an error, which it has printed"
    )


def _give_up(files: DecodeRequest, what: str) -> VideoError | ImageError:
    kind = VideoError if files.sample.modality == "video" else ImageError
    return kind(f"{files.folder / files.sample.files[0]} {what}, and is given up")


def serve(connection: Connection) -> None:
    """What the process does: read what it is told to until nobody is there to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    exit_with_parent()
    torch.set_num_threads(1)
    connection.send(READY)
    while True:
        try:
            files = connection.recv()
        except EOFError:
            return
        try:
            for each in decode_sample(files):
                connection.send(each)
        except (VideoError, ImageError) as error:
            connection.send(error)


def decode_sample(files: DecodeRequest) -> Iterator[EncodedImage | SampleSummary]:
    """The frames of a video as far as it can be read, or picture files once they decode as training will; last the ending.

    Raises:
        VideoError, ImageError: what is damaged, and how.
    """
    paths = [files.folder / file for file in files.sample.files]
    if files.sample.modality == "video":
        yield from _read_video(paths[0], files.video, files.jpeg_quality)
        return
    pictures = [(str(path), _read_file(path)) for path in paths]
    if files.sample.modality == "images":
        load_image_set(pictures, files.video.image_size)
    elif files.sample.modality == "image":
        read_image(pictures[0][1], pictures[0][0])
    for name, content in pictures:
        yield EncodedImage(image_suffix(content, name), content)
    yield SampleSummary(0.0, ())


def _read_video(
    path: Path, settings: VideoConfig, jpeg_quality: int
) -> Iterator[EncodedImage | SampleSummary]:
    seconds = probe(path).duration_seconds
    timestamps = sample_timestamps(seconds, settings.fps, settings.min_frames, settings.max_frames)
    num_frames = 0
    size, on_damage, key_frames_only = (
        settings.image_size,
        settings.on_decode_error,
        settings.keyframes_only,
    )
    for frames in read_frames(path, timestamps, size, on_damage, keyframes_only=key_frames_only):
        for image in frames.images:
            yield EncodedImage("jpg", encode_jpeg(image, jpeg_quality))
            num_frames += 1
    if num_frames < len(timestamps):
        seconds = timestamps[
            num_frames
        ]  # a damaged video lasts until the first frame that is missing
    yield SampleSummary(seconds, tuple(timestamps[:num_frames]))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # not to be taken for a disk that cannot be written
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
