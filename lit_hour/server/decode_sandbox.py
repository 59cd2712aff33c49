"""Decode the files of clients in a sandboxed subprocess with limits of time and RAM.

Entry points: `check_video` and `decode_in_sandbox`. One process is forked per file, and killed with
it. Its messages are validated as if the client had sent them.
"""

from __future__ import annotations

import json
import math
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
from lit_hour.media.worker_process import worker_context
from lit_hour.server import decode_worker
from lit_hour.server.decode_worker import ResourceLimits
from lit_hour.types import Frames

MAX_MESSAGE_BYTES = 1 << 20
_POLL_SECONDS = 0.2


class DecodingCancelledError(Exception):
    """The frames are no longer needed."""


@dataclass(frozen=True)
class VideoHeader:
    """Duration and frame size that a file declares; `width` and `height` in pixels."""

    duration_seconds: float
    width: int
    height: int


def start_forkserver() -> None:
    """Start the process that workers are forked from, which takes seconds."""
    worker_context()
    multiprocessing.forkserver.ensure_running()


def check_video(
    path: Path, name: str, settings: ServerConfig, cancelled: Event | None = None
) -> VideoHeader:
    """Decode the first frame of a file, and reject it if it is not a video or too large.

    Args:
        path: of the file.
        name: of the video in error messages.
        settings: limits.
        cancelled: stops the check when it is set.

    Raises:
        VideoError: the file is rejected, with the reason.
        DecodingCancelledError: `cancelled` was set.
    """
    limits = ResourceLimits(settings.check_timeout_seconds, ram_bytes(settings))
    with start_worker(decode_worker.check_video, path, limits) as connection:
        channel = WorkerChannel(connection, path, name, limits, cancelled or Event())
        message = channel.receive_message("header")
    with validation(name):
        header = VideoHeader(
            _positive(message["duration_seconds"]), int(message["width"]), int(message["height"])
        )
    if header.duration_seconds > settings.max_video_seconds:
        raise VideoError(
            f"{name} lasts {header.duration_seconds:.0f} s. This server accepts at most"
            f" {settings.max_video_seconds:.0f} s (serving.server.max_video_seconds)."
        )
    if header.width * header.height > settings.max_frame_megapixels * 1e6:
        raise VideoError(
            f"{name} has frames of {header.width} x {header.height} pixels. This server accepts at"
            f" most {settings.max_frame_megapixels:g} megapixels"
            " (serving.server.max_frame_megapixels). Scale the video down."
        )
    return header


@contextmanager
def decode_in_sandbox(
    path: Path,
    name: str,
    video: VideoConfig,
    chunk_frames: int,
    settings: ServerConfig,
    cancelled: Event,
    start_seconds: float | None = None,
) -> Iterator[SandboxedVideo]:
    """Open a video in a process of its own, which ends with the block.

    Args:
        path: of the file.
        name: of the video in error messages.
        video: how frames are sampled.
        chunk_frames: frames per chunk.
        settings: limits.
        cancelled: stops the decoding when it is set.
        start_seconds: if given, the file continues a live video of this duration.

    Raises:
        VideoError: the video cannot be opened.
        DecodingCancelledError: `cancelled` was set.
    """
    limits = ResourceLimits(settings.decode_timeout_seconds, ram_bytes(settings))
    args = (path, limits, video, chunk_frames, start_seconds)
    with start_worker(decode_worker.decode_video, *args) as connection:
        channel = WorkerChannel(connection, path, name, limits, cancelled)
        yield SandboxedVideo(channel, video, chunk_frames, min_frames=not start_seconds)


class SandboxedVideo:
    """A video that another process decodes.

    Attributes:
        num_frames: expected; a damaged video may yield fewer.
        duration_seconds: to the end of its last packet.
        warnings: of the decoder, known after `chunks`.
    """

    def __init__(
        self, channel: WorkerChannel, video: VideoConfig, chunk_frames: int, min_frames: int = 1
    ) -> None:
        self._channel, self._image_size, self._chunk_frames = (
            channel,
            video.image_size,
            chunk_frames,
        )
        self.warnings: list[str] = []
        message = channel.receive_message("opened")
        with validation(channel.name):
            self.num_frames = int(message["num_frames"])
            self.duration_seconds = _positive(message["duration_seconds"])
        if not min_frames <= self.num_frames <= video.max_frames:
            raise VideoError(
                f"{channel.name} has {self.num_frames} sampled frames, more than video.max_frames."
            )

    def chunks(self) -> Iterator[Frames]:
        """Yield the frames in order, at most `chunk_frames` at a time.

        Raises:
            VideoError: they cannot be decoded, or decoding exceeds a limit.
            DecodingCancelledError: the decoding was cancelled.
        """
        name, num_received = self._channel.name, 0
        while (message := self._channel.receive_message("frames", "done"))["kind"] == "frames":
            with validation(name):
                timestamps = torch.tensor(message["timestamps"], dtype=torch.float32)
                timestamps = timestamps.flatten()  # (frames,)
            num_received += len(timestamps)
            if not 0 < len(timestamps) <= self._chunk_frames or num_received > self.num_frames:
                raise VideoError(f"{name}: its decoder sent more frames than requested.")
            shape = (len(timestamps), 3, self._image_size, self._image_size)
            pixels = self._channel.receive_bytes(math.prod(shape))
            if len(pixels) != math.prod(shape):
                raise VideoError(f"{name}: its decoder sent images of another size.")
            images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
            yield Frames(images.view(shape), timestamps)  # (frames, 3, size, size), (frames,)
        with validation(name):
            self.warnings = [
                self._channel.redact_path(str(warning)) for warning in message["warnings"]
            ]


class WorkerChannel:
    """Receives the messages of a worker, within the limit on time."""

    def __init__(
        self,
        connection: Connection,
        path: Path,
        name: str,
        limits: ResourceLimits,
        cancelled: Event,
    ) -> None:
        self.name = name
        self._connection, self._path, self._limits = connection, path, limits
        self._cancelled, self._remaining_seconds = cancelled, limits.seconds

    def receive_message(self, *kinds: str) -> dict[str, Any]:
        """Return the next message, which must be of one of the kinds."""
        content = self.receive_bytes(MAX_MESSAGE_BYTES)
        with validation(self.name):
            message = json.loads(content)
            kind, reason = message["kind"], self.redact_path(str(message.get("reason", "")))
        if kind == "error":
            ram_gb = self._limits.ram_bytes / 1e9
            raise VideoError(
                reason or f"{self.name} cannot be decoded within {ram_gb:g} GB of RAM."
            )
        if kind not in kinds:
            raise VideoError(f"{self.name}: its decoder sent an unexpected message.")
        return message

    def receive_bytes(self, max_bytes: int) -> bytes:
        """Return the bytes of the next message."""
        started = time.monotonic()
        while not self._connection.poll(min(_POLL_SECONDS, max(self._remaining_seconds, 0.0))):
            if self._cancelled.is_set():
                raise DecodingCancelledError
            if time.monotonic() - started > self._remaining_seconds:
                raise VideoError(
                    f"{self.name} takes longer than {self._limits.seconds:g} s to decode. Give a"
                    " smaller file."
                )
        self._remaining_seconds -= time.monotonic() - started
        try:
            return self._connection.recv_bytes(max_bytes)
        except (EOFError, OSError) as error:
            ram_gb = self._limits.ram_bytes / 1e9
            raise VideoError(
                f"{self.name}: its decoder crashed (it may use {ram_gb:g} GB of RAM)."
            ) from error

    def redact_path(self, text: str) -> str:
        """Replace the path on the server by the name of the video."""
        return text.replace(str(self._path), self.name)


@contextmanager
def start_worker(target: Callable[..., None], *args: object) -> Iterator[Connection]:
    """Run a function in a process of its own, which ends with the block.

    Args:
        target: gets the connection to send messages to, and `args`.
        args: further arguments.
    """
    context = worker_context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        with ours:
            yield ours
    finally:
        process.kill()
        process.join()
        process.close()


def ram_bytes(settings: ServerConfig) -> int:
    """Return the memory limit of a worker."""
    return int(settings.decode_ram_gb * 1e9)


def _positive(value: Any) -> float:
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value} is not a positive number")
    return float(value)


@contextmanager
def validation(name: str) -> Iterator[None]:
    """Turn the errors of parsing an invalid message into a `VideoError`."""
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
        raise VideoError(f"{name}: its decoder sent an invalid message ({error}).") from error
