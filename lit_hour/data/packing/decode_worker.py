"""Decode samples in a subprocess (`DecodeWorker`), isolated from decoder hangs and crashes."""

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
SECONDS_BETWEEN_LOOKS = 0.2  # between checks whether to stop
SECONDS_TO_DIE = 5.0


@dataclass(frozen=True)
class DecodeRequest:
    """Sample to decode, and the settings to decode it with."""

    folder: Path
    sample: SampleSpec
    video: VideoConfig
    jpeg_quality: int


@dataclass(frozen=True)
class EncodedImage:
    """Encoded image as stored in a shard: a frame as JPEG, or an image file unchanged."""

    suffix: str
    content: bytes


@dataclass(frozen=True)
class SampleSummary:
    """End-of-sample message: duration and frame times of a video, or 0 and an empty tuple."""

    duration_seconds: float
    timestamps_seconds: tuple[float, ...]


class DecodeWorker:
    """Decoder subprocess, started on first use and killed when the context exits."""

    def __init__(self, timeout_seconds: float, check_stop: Callable[[], None]) -> None:
        """Create the worker; the process starts on first use.

        Args:
            timeout_seconds: time limit for each sample; 0 for none.
            check_stop: called while waiting; raises an exception to stop.
        """
        self._timeout_seconds, self._check_stop = timeout_seconds, check_stop
        self._running: tuple[BaseProcess, Connection] | None = None
        self._is_idle = False

    def __enter__(self) -> DecodeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, request: DecodeRequest) -> Iterator[EncodedImage | SampleSummary]:
        """Yield the images of a sample as they are decoded, then its summary.

        Raises:
            VideoError, ImageError: the sample cannot be read, crashes its decoder, or exceeds the
                time limit; the worker remains usable.
            ShardError: the process was killed from outside.
        """
        if not request.sample.files:
            yield SampleSummary(0.0, ())
            return
        if not self._is_idle:
            self._start(request)
        deadline = time.monotonic() + (self._timeout_seconds or math.inf)
        self._send(request)
        while isinstance(message := self._receive(request, deadline), EncodedImage):
            yield message
        self._is_idle = True
        if isinstance(message, VideoError | ImageError):
            raise message
        yield message

    def _start(self, request: DecodeRequest) -> None:
        """Start a process and wait for it; its imports do not count as decoding time."""
        self._end()
        context = worker_context()
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._running = process, ours
        self._receive(request, math.inf)

    def _end(self) -> None:
        if self._running is not None:
            process, connection = self._running
            process.kill()
            process.join(SECONDS_TO_DIE)  # may outlive SIGKILL while it waits for a dead disk
            connection.close()
        self._running, self._is_idle = None, False

    def _send(self, request: DecodeRequest) -> None:
        assert self._running is not None
        process, connection = self._running
        self._is_idle = False
        try:
            connection.send(request)
        except OSError as error:
            raise _explain_death(process, request) from error

    def _receive(self, request: DecodeRequest, deadline: float) -> Any:
        """Return the next message of the process; raise if it times out or dies."""
        assert self._running is not None
        process, connection = self._running
        while True:
            self._check_stop()
            if time.monotonic() > deadline:
                self._end()
                raise _give_up(
                    request, f"takes longer than pack.timeout_seconds={self._timeout_seconds:g}"
                )
            if connection.poll(SECONDS_BETWEEN_LOOKS):
                break
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise _explain_death(process, request) from error


def _explain_death(
    process: BaseProcess, request: DecodeRequest
) -> VideoError | ImageError | ShardError | RuntimeError:
    process.join(SECONDS_TO_DIE)
    status = process.exitcode or 0
    if status == -signal.SIGKILL:
        return ShardError(
            "A packing process was killed, possibly out of memory. Lower pack.num_workers"
        )
    if status < 0:
        return _give_up(request, f"crashes its decoder ({signal.Signals(-status).name})")
    return RuntimeError(
        f"The process that decoded {request.sample.name} failed; see the error that it printed"
    )


def _give_up(request: DecodeRequest, reason: str) -> VideoError | ImageError:
    error_type = VideoError if request.sample.modality == "video" else ImageError
    return error_type(f"{request.folder / request.sample.files[0]} {reason}")


def serve(connection: Connection) -> None:
    """Run the decoder process: serve requests until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and kills this process
    exit_with_parent()
    torch.set_num_threads(1)
    connection.send(READY)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            for message in decode_sample(request):
                connection.send(message)
        except (VideoError, ImageError) as error:
            connection.send(error)


def decode_sample(request: DecodeRequest) -> Iterator[EncodedImage | SampleSummary]:
    """Yield the images of a sample, then its summary.

    A video gives its frames, up to the first one that cannot be decoded, as JPEG. Image files are
    given unchanged, after checking that they decode as they will in training.

    Raises:
        VideoError, ImageError: a file is damaged.
    """
    paths = [request.folder / file for file in request.sample.files]
    if request.sample.modality == "video":
        yield from _read_video(paths[0], request.video, request.jpeg_quality)
        return
    images = [(str(path), _read_file(path)) for path in paths]
    if request.sample.modality == "images":
        load_image_set(images, request.video.image_size)
    elif request.sample.modality == "image":
        read_image(images[0][1], images[0][0])
    for name, content in images:
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
    except OSError as error:  # OSError would be reported as a failure to write the shard
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
