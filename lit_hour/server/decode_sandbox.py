"""A file that a stranger made -> its frames, decoded in a process of its own, which is trusted with nothing.

The process is forked from one that has imported what it needs and opened no file, so that it starts in milliseconds; it is
ended with the file. What it says is checked as if the stranger said it.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import multiprocessing.forkserver
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import Any

import torch

from lit_hour.config.schema import VideoConfig
from lit_hour.config.serving import ServerConfig
from lit_hour.errors import VideoError
from lit_hour.server import decode_worker as decoder
from lit_hour.types import Frames

MAX_MESSAGE_BYTES = 1 << 20
_POLL_SECONDS = 0.2
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([decoder.__name__])


class DecodingCancelledError(Exception):
    """Nobody wants the frames any more."""


@dataclass(frozen=True)
class VideoHeader:
    """What a file says about its video; `width` and `height` in pixels."""

    duration_seconds: float
    width: int
    height: int


def start_forkserver() -> None:
    """Start the process that the others are forked from, which takes seconds, before somebody waits for it."""
    multiprocessing.forkserver.ensure_running()


def check_video(path: Path, name: str, settings: ServerConfig) -> VideoHeader:
    """Look at the header and the first frame of a file, and refuse what is no video or too large a one.

    Args:
        name: of the video, for messages.

    Raises:
        VideoError: it is no video that can be taken, with the reason.
    """
    limit_seconds, memory_bytes = settings.check_timeout_seconds, _memory_bytes(settings)
    with _worker_process(decoder.check_video, path, limit_seconds, memory_bytes) as messages:
        said = _WorkerChannel(messages, path, name, limit_seconds, memory_bytes, Event()).next(
            "checked"
        )
    with _validated(name):
        header = VideoHeader(
            _positive(said["duration_seconds"]), int(said["width"]), int(said["height"])
        )
    if header.duration_seconds > settings.max_video_seconds:
        raise VideoError(
            f"{name} lasts {header.duration_seconds:.0f} s, and this server takes videos of at most"
            f" {settings.max_video_seconds:.0f} s (serving.server.max_video_seconds)"
        )
    if header.width * header.height > settings.max_frame_megapixels * 1e6:
        raise VideoError(
            f"{name} has frames of {header.width} x {header.height} pixels, and this server takes at most"
            f" {settings.max_frame_megapixels:g} megapixels (serving.server.max_frame_megapixels): make it smaller"
        )
    return header


class SandboxedVideo:
    """A video whose sampled frames come from a process of its own, a chunk at a time.

    Attributes:
        num_frames: that will come; fewer of a damaged video that is used.
        duration_seconds: once the chunks were read, that of the part that could be read.
        notes: what was warned of while the chunks were read.
    """

    def __init__(self, apart: _WorkerChannel, video: VideoConfig, chunk_frames: int) -> None:
        self._apart, self._size_pixels, self._chunk_frames = apart, video.image_size, chunk_frames
        said = apart.next("opened")
        with _validated(apart.name):
            self.num_frames, self.duration_seconds = (
                int(said["num_frames"]),
                _positive(said["duration_seconds"]),
            )
        if not 0 < self.num_frames <= video.max_frames:
            raise VideoError(
                f"{apart.name} has {self.num_frames} frames to look at, more than video.max_frames allows"
            )
        self.warnings: list[str] = []

    def chunks(self) -> Iterator[Frames]:
        """The frames in order.

        Raises:
            VideoError: they cannot be read, or reading takes too much time or memory.
            CancelledDecodingError: the video was cancelled meanwhile.
        """
        num_read = 0
        while (said := self._apart.next("frames", "read"))["kind"] == "frames":
            with _validated(self._apart.name):
                timestamps = torch.tensor(
                    said["timestamps"], dtype=torch.float32
                ).flatten()  # (frames,)
            num_read += len(timestamps)
            if not 0 < len(timestamps) <= self._chunk_frames or num_read > self.num_frames:
                raise VideoError(
                    f"{self._apart.name}: the process that decodes it sent more frames than were asked for"
                )
            shape = (len(timestamps), 3, self._size_pixels, self._size_pixels)
            pixels = self._apart.receive(math.prod(shape))
            if len(pixels) != math.prod(shape):
                raise VideoError(
                    f"{self._apart.name}: the process that decodes it sent pictures of another size"
                )
            images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(
                shape
            )  # (frames, 3, size, size)
            yield Frames(images, timestamps)
        with _validated(self._apart.name):
            self.duration_seconds = _positive(said["duration_seconds"])
            self.warnings = [self._apart.call(str(note)) for note in said["notes"]]


@contextmanager
def decode_in_sandbox(
    path: Path,
    name: str,
    video: VideoConfig,
    chunk_frames: int,
    settings: ServerConfig,
    cancelled: Event,
) -> Iterator[SandboxedVideo]:
    """Open a video in a process of its own, which ends with the block.

    Raises:
        VideoError: it cannot be opened.
        CancelledDecodingError: `cancelled` was set meanwhile.
    """
    limit_seconds, memory_bytes = settings.decode_timeout_seconds, _memory_bytes(settings)
    with _worker_process(
        decoder.decode_video, path, video, chunk_frames, limit_seconds, memory_bytes
    ) as messages:
        yield SandboxedVideo(
            _WorkerChannel(messages, path, name, limit_seconds, memory_bytes, cancelled),
            video,
            chunk_frames,
        )


class _WorkerChannel:
    """The messages of a process, for which we wait so long and no longer."""

    def __init__(
        self,
        messages: Connection,
        path: Path,
        name: str,
        limit_seconds: float,
        memory_bytes: int,
        cancelled: Event,
    ) -> None:
        self.name = name
        self._messages, self._path, self._cancelled = messages, path, cancelled
        self._limit_seconds, self._left_seconds, self._memory_bytes = (
            limit_seconds,
            limit_seconds,
            memory_bytes,
        )

    def next(self, *kinds: str) -> dict[str, Any]:
        """The next message, which has to be of one of the kinds."""
        message = self.receive(MAX_MESSAGE_BYTES)
        with _validated(self.name):
            said = json.loads(message)
            kind, reason = said["kind"], self.call(str(said.get("reason", "")))
        if kind == "refused":
            raise VideoError(
                reason
                or f"{self.name} cannot be decoded within {self._memory_bytes / 1e9:g} GB of memory"
            )
        if kind not in kinds:
            raise VideoError(f"{self.name}: the process that decodes it said what nobody asked for")
        return said

    def call(self, text: str) -> str:
        """A text about the file that names the video instead."""
        return text.replace(str(self._path), self.name)

    def receive(self, max_bytes: int) -> bytes:
        """The bytes of the next message."""
        started = time.monotonic()
        while not self._messages.poll(min(_POLL_SECONDS, max(self._left_seconds, 0.0))):
            if self._cancelled.is_set():
                raise DecodingCancelledError
            if time.monotonic() - started > self._left_seconds:
                raise VideoError(
                    f"{self.name} takes longer than {self._limit_seconds:g} s to decode; give a smaller file"
                )
        self._left_seconds -= time.monotonic() - started
        try:
            return self._messages.recv_bytes(max_bytes)
        except (EOFError, OSError) as error:
            gigabytes = self._memory_bytes / 1e9
            raise VideoError(
                f"{self.name}: decoding it broke off (it may take {gigabytes:g} GB of memory)"
            ) from error


@contextmanager
def _worker_process(run: Callable[..., None], *given: object) -> Iterator[Connection]:
    ours, theirs = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=run, args=(theirs, *given), daemon=True)
    process.start()
    theirs.close()
    try:
        with ours:
            yield ours
    finally:
        process.kill()
        process.join()
        process.close()


def _memory_bytes(settings: ServerConfig) -> int:
    return int(settings.decode_ram_gb * 1e9)


def _positive(value: Any) -> float:
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value} is no positive number")
    return float(value)


@contextmanager
def _validated(name: str) -> Iterator[None]:
    """What the process says is what it should say, or the video is refused."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        raise VideoError(
            f"{name}: the process that decodes it said something that makes no sense ({error})"
        ) from error
