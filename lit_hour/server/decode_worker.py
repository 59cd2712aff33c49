"""Runs inside the sandboxed process: decodes a file of a client and sends messages about it.

Messages are JSON; the bytes of the pixels follow a message about frames. Nothing is pickled, so a
crafted file that takes over this process still cannot run code in the server.
"""

from __future__ import annotations

import json
import os
import resource
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lit_hour.config.schema import ImageConfig, VideoConfig
from lit_hour.errors import ImageError, InputError, VideoError
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.media.sample_times import continued_timestamps
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import SampledVideo


@dataclass(frozen=True)
class ResourceLimits:
    """Seconds of wall-clock time and bytes of RAM that one process may use."""

    seconds: float
    ram_bytes: int


def check_video(connection: Connection, path: Path, limits: ResourceLimits) -> None:
    """Send the duration and frame size of a video, after its first frame was decoded."""
    _limit_resources(limits)
    try:
        info = probe(path)
    except (VideoError, MemoryError) as error:
        _send_error(connection, error)
    else:
        _send(
            connection,
            "header",
            duration_seconds=info.duration_seconds,
            width=info.width,
            height=info.height,
        )


def decode_video(
    connection: Connection,
    path: Path,
    limits: ResourceLimits,
    video: VideoConfig,
    chunk_frames: int,
    start_seconds: float | None = None,
) -> None:
    """Send the sampled frames of a video in chunks.

    Args:
        connection: for the messages.
        path: of the file.
        limits: of this process.
        video: how frames are sampled.
        chunk_frames: frames per chunk.
        start_seconds: if given, the file continues a live video of this duration.
    """
    _limit_resources(limits)
    try:
        sampled = SampledVideo(path, video)
        if start_seconds is not None:
            sampled.timestamps = continued_timestamps(
                start_seconds, sampled.duration_seconds, video.fps
            )
        _send(
            connection,
            "opened",
            num_frames=len(sampled.timestamps),
            duration_seconds=sampled.duration_seconds,
        )
        with warnings.catch_warnings(record=True) as caught:
            for frames in sampled.chunks(chunk_frames):
                _send(connection, "frames", timestamps=frames.timestamps.tolist())
                pixels = frames.images.flatten()  # (frames * 3 * size * size,)
                connection.send_bytes(pixels.numpy().data)
    except (VideoError, MemoryError) as error:
        _send_error(connection, error)
    else:
        _send(connection, "done", warnings=[str(warning.message) for warning in caught])


def decode_images(
    connection: Connection,
    paths: tuple[Path, ...],
    limits: ResourceLimits,
    size_pixels: int,
    config: ImageConfig,
) -> None:
    """Send the tiles of one image, or the squares of several."""
    _limit_resources(limits)
    try:
        if len(paths) > 1:
            files = [(f"Image {n}", path.read_bytes()) for n, path in enumerate(paths, start=1)]
            pixels, grid, size = load_image_set(files, size_pixels).images, (1, 1), (1, 1)
        else:
            tiled = load_tiled_image(paths[0].read_bytes(), "The image", size_pixels, config)
            pixels, grid, size = tiled.tiles, tiled.grid, tiled.size_pixels
    except OSError as error:
        _send_error(connection, ImageError(f"The file cannot be read ({error.strerror})."))
    except (ImageError, MemoryError) as error:
        _send_error(connection, error)
    else:
        _send(connection, "images", grid=grid, size_pixels=size)
        connection.send_bytes(pixels.flatten().numpy().data)  # (images * 3 * size * size,)


def _limit_resources(limits: ResourceLimits) -> None:
    """Set limits on RAM and CPU time, and forbid writing files.

    Memory that was mapped before does not count. The limit on CPU time ends this process even if
    the server is gone.
    """
    torch.set_num_threads(1)
    mapped_pages = int(Path("/proc/self/statm").read_text().split()[0])
    address_space_bytes = mapped_pages * resource.getpagesize() + limits.ram_bytes
    cpu_seconds = int(limits.seconds * (os.cpu_count() or 1)) + 1
    for kind, limit in (
        (resource.RLIMIT_AS, address_space_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _send_error(connection: Connection, error: InputError | MemoryError) -> None:
    reason = "" if isinstance(error, MemoryError) else str(error)
    _send(connection, "error", reason=reason)


def _send(connection: Connection, kind: str, **fields: Any) -> None:
    connection.send_bytes(json.dumps({"kind": kind, **fields}).encode())
