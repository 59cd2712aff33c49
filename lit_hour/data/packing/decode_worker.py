"""Decode the files of a sample in a worker process.

So a file that hangs or crashes it stops nothing else.

`DecodeWorker` is the side of the packing process; `serve` runs in the worker.
"""

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
from lit_hour.media.image_reader import image_suffix, read_image
from lit_hour.media.transforms import encode_jpeg
from lit_hour.media.video_reader import SampledVideo
from lit_hour.media.worker_process import exit_with_parent, worker_context

READY = "ready"
POLL_SECONDS = 0.2
KILL_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class DecodeRequest:
    """A sample to decode, and how."""

    folder: Path
    sample: SampleSpec
    video: VideoConfig
    jpeg_quality: int


@dataclass(frozen=True)
class EncodedImage:
    """An image as a shard stores it: a frame as JPEG, or the content of an image file."""

    suffix: str
    content: bytes


@dataclass(frozen=True)
class SampleSummary:
    """Facts that packing finds out about a sample, sent after its last image.

    Attributes:
        duration_seconds: length of a video; otherwise 0.
        timestamps_seconds: of the frames of a video; otherwise empty.
        size_pixels: height and width of an upright image; otherwise empty.
    """

    duration_seconds: float
    timestamps_seconds: tuple[float, ...]
    size_pixels: tuple[int, ...] = ()


class DecodeWorker:
    """A worker process that decodes one sample after the other.

    It is started on demand, and ended with the context.
    """

    def __init__(self, timeout_seconds: float, check_stop: Callable[[], None]) -> None:
        """Args: timeout_seconds: per sample, 0 for none; check_stop: raises to abort decoding."""
        self._timeout_seconds, self._check_stop = timeout_seconds, check_stop
        self._running: tuple[BaseProcess, Connection] | None = None
        self._is_idle = False

    def __enter__(self) -> DecodeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, request: DecodeRequest) -> Iterator[EncodedImage | SampleSummary]:
        """Yield the images of a sample, and last its summary.

        Raises:
            VideoError, ImageError: the file cannot be decoded, crashes the decoder, or takes too
                long; the next request starts another process.
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
        """Start a process and wait until it has imported everything.

        The timeout does not include this.
        """
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
            process.join(KILL_TIMEOUT_SECONDS)  # a read from a failing disk cannot be killed
            connection.close()
        self._running, self._is_idle = None, False

    def _send(self, request: DecodeRequest) -> None:
        assert self._running is not None
        process, connection = self._running
        self._is_idle = False
        try:
            connection.send(request)
        except OSError as error:
            raise _explain_exit(process, request) from error

    def _receive(self, request: DecodeRequest, deadline: float) -> Any:
        """Return the next message of the process."""
        assert self._running is not None
        process, connection = self._running
        while True:
            self._check_stop()
            if time.monotonic() > deadline:
                self._end()
                reason = f"takes longer than pack.timeout_seconds={self._timeout_seconds:g}"
                raise _decode_error(request, reason)
            if connection.poll(POLL_SECONDS):
                break
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise _explain_exit(process, request) from error


def _explain_exit(process: BaseProcess, request: DecodeRequest) -> Exception:
    """Return the error that the exit status of a worker stands for."""
    process.join(KILL_TIMEOUT_SECONDS)
    status = process.exitcode or 0
    if status == -signal.SIGKILL:
        return ShardError(
            "A packing process was killed, perhaps for lack of memory. Use fewer pack.num_workers."
        )
    if status < 0:
        return _decode_error(request, f"crashes its decoder ({signal.Signals(-status).name})")
    return RuntimeError(f"The process that decoded {request.sample.name} failed; see its output.")


def _decode_error(request: DecodeRequest, reason: str) -> VideoError | ImageError:
    kind = VideoError if request.sample.modality == "video" else ImageError
    return kind(f"{request.folder / request.sample.files[0]} {reason}.")


def serve(connection: Connection) -> None:
    """Decode requests until the connection is closed. Runs in the worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the packing process handles Ctrl+C
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
    """Yield the frames of a video, or the image files that can be decoded, then the summary.

    Raises:
        VideoError, ImageError: a file is corrupt.
    """
    paths = [request.folder / file for file in request.sample.files]
    if request.sample.modality == "video":
        yield from _decode_video(paths[0], request)
        return
    images = [(str(path), _read_file(path)) for path in paths]
    size_pixels: tuple[int, ...] = ()
    if request.sample.modality == "images":
        load_image_set(images, request.video.image_size)
    elif request.sample.modality == "image":
        upright = read_image(images[0][1], images[0][0])
        size_pixels = (upright.height, upright.width)
    for name, content in images:
        yield EncodedImage(image_suffix(content, name), content)
    yield SampleSummary(0.0, (), size_pixels)


def _decode_video(path: Path, request: DecodeRequest) -> Iterator[EncodedImage | SampleSummary]:
    sampled = SampledVideo(path, request.video, clip_seconds=request.sample.clip_seconds)
    num_frames = 0
    for frames in sampled.chunks():
        for image in frames.images:
            yield EncodedImage("jpg", encode_jpeg(image, request.jpeg_quality))
            num_frames += 1
    yield summarize_video(sampled, num_frames)


def summarize_video(sampled: SampledVideo, num_frames: int) -> SampleSummary:
    """Return the summary of a video of which this many frames could be read."""
    return SampleSummary(sampled.duration_seconds, tuple(sampled.timestamps[:num_frames]))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # an OSError would be reported as a failure to write the shard
        raise ImageError(f"Cannot read {path}: {error.strerror}.") from error
