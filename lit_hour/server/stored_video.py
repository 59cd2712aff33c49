"""A video of a server: its file, the progress of its encoding, and what clients get of it."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Literal

from lit_hour.server.decode_sandbox import VideoHeader
from lit_hour.types import Thumbnail

VideoStatus = Literal["queued", "encoding", "ready", "failed"]

ID_PREFIX = "video-"


@dataclass
class IngestProgress:
    """Counts the encoded frames of a video.

    Attributes:
        num_frames: to be encoded; 0 until it is known.
        warnings: of the decoder.
    """

    num_frames: int = 0
    num_encoded: int = 0
    started: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def eta_seconds(self) -> float | None:
        """Return the estimated time for the remaining frames; None before the first frame."""
        if not self.num_encoded:
            return None
        seconds_per_frame = (time.monotonic() - self.started) / self.num_encoded
        return seconds_per_frame * (self.num_frames - self.num_encoded)


@dataclass(eq=False)
class StoredVideo:
    """A video of a client, or of an allowed directory.

    Attributes:
        name: for display.
        is_upload: whether the server owns the file and deletes it.
        error: reason why `status` is "failed".
        error_status: HTTP status of a question about a failed video.
        memory_key: in the memory cache; empty until the video is ready.
        thumbnails: frames spread over the video.
        cancelled: set when the video is removed.
        finished: set when the video is ready, failed or removed.
        last_used: on the monotonic clock.
        file_stamp: size and modification time of the file when it was added.
        digest: SHA-256 of the file, if it came with a request; empty otherwise.
        is_live: the file is the first part of a live video.
        num_parts: 1, and one more for each part that was appended.
        append_lock: held while a part is appended.
        append_cancelled: set when the part that is appended is no longer needed.
    """

    name: str
    path: Path
    header: VideoHeader
    is_upload: bool
    digest: str = ""
    is_live: bool = False
    num_parts: int = 1
    append_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    append_cancelled: Event = field(default_factory=Event)
    id: str = field(default_factory=lambda: f"{ID_PREFIX}{secrets.token_urlsafe(12)}")
    status: VideoStatus = "queued"
    error: str = ""
    error_status: int = 422
    memory_key: str = ""
    thumbnails: tuple[Thumbnail, ...] = ()
    progress: IngestProgress = field(default_factory=IngestProgress)
    cancelled: Event = field(default_factory=Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    last_used: float = field(default_factory=time.monotonic)
    file_stamp: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.file_stamp = file_stamp(self.path)

    @property
    def is_reusable(self) -> bool:
        """Return whether it stands for its file: it did not fail, and is not longer."""
        return self.status != "failed" and self.num_parts == 1 and not self.is_live

    def to_json(self) -> dict[str, Any]:
        """Return the description that clients get."""
        return {
            "id": self.id,
            "object": "video",
            "url": self.id if self.is_upload or self.num_parts > 1 else self.path.as_uri(),
            "name": self.name,
            "duration_seconds": self.header.duration_seconds,
            "num_parts": self.num_parts,
            "status": self.status,
            "error": self.error,
            "num_frames": self.progress.num_frames,
            "num_encoded_frames": self.progress.num_encoded,
            "eta_seconds": self.progress.eta_seconds(),
            "warnings": list(self.progress.warnings),
            "thumbnails": [seconds for seconds, _ in self.thumbnails],
        }


def file_stamp(path: Path) -> tuple[int, int]:
    """Return the size of a file and its modification time in ns."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
