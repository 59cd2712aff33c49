"""A file that a stranger made in, messages about it out. Runs in a process of its own that may take little time and memory.

A message is JSON, and where it is about frames the bytes of their pixels follow: nothing is pickled, so that whoever takes
this process over by a crafted file still cannot run code in the server.
"""

from __future__ import annotations

import json
import os
import resource
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.frame_sampling import SampledVideo
from lit_hour.media.video_probe import probe
from lit_hour.types import Frames


def check_video(
    messages: Connection, path: Path, timeout_seconds: float, memory_bytes: int
) -> None:
    """Say what the header of a file and its first frame show."""
    _limit_resources(timeout_seconds, memory_bytes)
    try:
        info = probe(path)
    except (VideoError, MemoryError) as error:
        _send_error(messages, error)
    else:
        _send_message(
            messages,
            "checked",
            duration_seconds=info.duration_seconds,
            width=info.width,
            height=info.height,
        )


def decode_video(
    messages: Connection,
    path: Path,
    video: VideoConfig,
    chunk_frames: int,
    timeout_seconds: float,
    memory_bytes: int,
) -> None:
    """Send the sampled frames of a video, chunk by chunk."""
    _limit_resources(timeout_seconds, memory_bytes)
    try:
        sampled = SampledVideo(path, video)
        _send_message(
            messages,
            "opened",
            num_frames=len(sampled.timestamps),
            duration_seconds=sampled.duration_seconds,
        )
        with warnings.catch_warnings(record=True) as caught:
            for frames in sampled.chunks(chunk_frames):
                _send_frames(messages, frames)
    except (VideoError, MemoryError) as error:
        _send_error(messages, error)
    else:
        notes = [str(warning.message) for warning in caught]
        _send_message(messages, "read", duration_seconds=sampled.duration_seconds, notes=notes)


def _limit_resources(timeout_seconds: float, memory_bytes: int) -> None:
    """Take from this process what it does not need: it writes no file, and what it had mapped at the start is not counted."""
    torch.set_num_threads(1)
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    processor_seconds = (
        int(timeout_seconds * (os.cpu_count() or 1)) + 1
    )  # ends it also where nobody is left to do so
    for kind, most in (
        (resource.RLIMIT_AS, used_bytes + memory_bytes),
        (resource.RLIMIT_CPU, processor_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _send_frames(messages: Connection, frames: Frames) -> None:
    _send_message(messages, "frames", timestamps=frames.timestamps.tolist())
    messages.send_bytes(frames.images.flatten().numpy().data)  # (frames * 3 * size * size,)


def _send_error(messages: Connection, error: VideoError | MemoryError) -> None:
    _send_message(messages, "refused", reason="" if isinstance(error, MemoryError) else str(error))


def _send_message(messages: Connection, kind: str, **content: Any) -> None:
    messages.send_bytes(json.dumps({"kind": kind, **content}).encode())
