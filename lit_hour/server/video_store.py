"""A file that a stranger made -> what is remembered of it: decoded apart, encoded on the thread of the model chunk by chunk.

Videos that clients have brought -> what is remembered of them. So many are kept, and the least recently used one goes.

Their memories lie on a shelf: those that are more than its budget are on disk until they are asked about.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import InputError, MemoryFileError
from lit_hour.inference.memory_cache import MemoryCache
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.server.decode_sandbox import DecodingCancelledError, VideoHeader, decode_in_sandbox
from lit_hour.server.http_errors import HTTPRefusal
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import ModelExecutor
from lit_hour.types import Thumbnail


@dataclass
class IngestProgress:
    """How far a video was read.

    Attributes:
        num_frames: that will be read; 0 until that is known.
        notes: what was warned of.
    """

    num_frames: int = 0
    num_encoded: int = 0
    started: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def eta_seconds(self) -> float | None:
        """As long as the frames that are left will take at the pace so far; None until there is a pace."""
        if not self.num_encoded:
            return None
        return (
            (time.monotonic() - self.started)
            / self.num_encoded
            * (self.num_frames - self.num_encoded)
        )


def ingest_video(
    predictor: VideoPredictor,
    model: ModelExecutor,
    settings: ServerConfig,
    path: Path,
    name: str,
    reading: IngestProgress,
    cancelled: Event,
) -> VideoMemory:
    """Remember a video, and tell `reading` how far it is.

    Raises:
        VideoError: the file cannot be read.
        CancelledDecodingError: `cancelled` was set meanwhile.
    """
    chunk_frames = predictor.config.model.vision.encode_batch_size
    reading.started, encode_seconds = time.monotonic(), 0.0
    with decode_in_sandbox(
        path, name, predictor.config.video, chunk_frames, settings, cancelled
    ) as video:
        reading.num_frames = video.num_frames
        builder = model.submit(predictor.memory_builder, video.num_frames).result()
        for frames in video.chunks():
            decoded = time.monotonic()
            model.submit(lambda: builder.add(frames.to(predictor.device))).result()
            encode_seconds += time.monotonic() - decoded
            reading.num_encoded = builder.num_frames
    decode_seconds = time.monotonic() - reading.started - encode_seconds
    reading.warnings = video.warnings
    memory = model.submit(builder.finalize, video.duration_seconds, name).result()
    return replace(memory, seconds={"decode": decode_seconds, "encode": encode_seconds})


VideoStatus = Literal["waiting", "remembering", "remembered", "refused"]

ID_PREFIX = "video-"
MAX_CONCURRENT_INGESTS = 2  # videos, so that a short one need not wait for a long one


@dataclass(eq=False)
class StoredVideo:
    """A video that was brought.

    Attributes:
        name: to show to people.
        is_upload: whether the file is ours to delete.
        reason: why it was refused.
        reading: how far it is.
        settled: it is remembered, refused or gone.
        stamp: size and time of the file when it was brought.
        key: of its memory on the shelf; empty until it is remembered.
        pictures: frames of it to look at.
    """

    name: str
    path: Path
    header: VideoHeader
    is_upload: bool
    id: str = field(default_factory=lambda: f"{ID_PREFIX}{secrets.token_urlsafe(12)}")
    status: VideoStatus = "waiting"
    error: str = ""
    memory_key: str = ""
    thumbnails: tuple[Thumbnail, ...] = ()
    progress: IngestProgress = field(default_factory=IngestProgress)
    cancelled: Event = field(default_factory=Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    last_used: float = field(default_factory=time.monotonic)
    file_stamp: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.file_stamp = _stamp(self.path)

    def describe(self) -> dict[str, Any]:
        """What clients are told."""
        return {
            "id": self.id,
            "object": "video",
            "url": self.id if self.is_upload else self.path.as_uri(),
            "name": self.name,
            "duration_seconds": self.header.duration_seconds,
            "state": self.status,
            "reason": self.error,
            "num_frames": self.progress.num_frames,
            "frames_read": self.progress.num_encoded,
            "seconds_left": self.progress.eta_seconds(),
            "notes": list(self.progress.warnings),
            "pictures": [seconds for seconds, _ in self.thumbnails],
        }


class VideoStore:
    """The videos of one server."""

    def __init__(
        self,
        predictor: VideoPredictor,
        model: ModelExecutor,
        shelf: MemoryCache,
        settings: ServerConfig,
        metrics: Metrics,
    ) -> None:
        self._predictor, self._model, self._settings, self._metrics = (
            predictor,
            model,
            settings,
            metrics,
        )
        self._cache = shelf
        self._videos: dict[str, StoredVideo] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = ThreadPoolExecutor(MAX_CONCURRENT_INGESTS, "reader")

    def __len__(self) -> int:
        return len(self._videos)

    def list(self) -> list[StoredVideo]:
        """All of them, the latest last."""
        return list(self._videos.values())

    def get(self, video_id: str) -> StoredVideo:
        """A video by its id, which counts as using it.

        Raises:
            RefusedError: 404, it is not kept.
        """
        video = self._videos.get(video_id)
        if video is None:
            raise HTTPRefusal(
                404, "there is no such video, or it had to make room for another one: send it again"
            )
        video.last_used = time.monotonic()
        return video

    def find_by_path(self, path: Path) -> StoredVideo | None:
        """The video that was brought from a file as the file is now, unless it was refused."""
        found = [
            each for each in self._videos.values() if each.path == path and each.status != "refused"
        ]
        return next((each for each in found if each.file_stamp == _stamp(path)), None)

    def check_capacity(self) -> None:
        """See whether one more can be taken.

        Raises:
            RefusedError: 429, all that are kept are still being remembered.
        """
        if len(self._videos) >= self._settings.max_videos and self._least_recently_used() is None:
            raise HTTPRefusal(
                429, f"{len(self._videos)} videos are being remembered: try again later", 10
            )

    def add(self, name: str, path: Path, header: VideoHeader, is_upload: bool) -> StoredVideo:
        """Take a video, and begin to remember it.

        Raises:
            RefusedError: as `check_room`.
        """
        self.check_capacity()
        while len(self._videos) >= self._settings.max_videos and (
            oldest := self._least_recently_used()
        ):
            self.remove(oldest)
        video = StoredVideo(name, path, header, is_upload)
        self._videos[video.id] = video
        task = asyncio.create_task(self._ingest(video))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return video

    def remove(self, video: StoredVideo) -> None:
        """Let go of a video, and stop remembering it."""
        self._videos.pop(video.id, None)
        video.cancelled.set()
        self._forget(video)
        self._delete_file(video)

    @asynccontextmanager
    async def lease_memory(self, video: StoredVideo) -> AsyncIterator[VideoMemory]:
        """What is remembered of a video, once it is; it stays at hand meanwhile.

        Raises:
            RefusedError: 422, it was refused; 404, it was dropped meanwhile.
        """
        await video.finished.wait()
        if video.error:
            raise HTTPRefusal(422, video.error)
        borrowed = self._cache.lease(video.memory_key)
        reading = asyncio.ensure_future(asyncio.to_thread(borrowed.__enter__))  # perhaps from disk
        try:
            memory = await asyncio.shield(reading)
        except MemoryFileError as error:
            raise HTTPRefusal(404, "this video is no longer kept: send it again") from error
        except asyncio.CancelledError:
            reading.add_done_callback(
                lambda read: read.exception() or borrowed.__exit__(None, None, None)
            )
            raise
        try:
            yield memory
        finally:
            await asyncio.shield(
                asyncio.to_thread(borrowed.__exit__, None, None, None)
            )  # whoever is cancelled meanwhile

    def close(self) -> None:
        """Stop everything, and delete the uploads."""
        for video in self.list():
            self.remove(video)
        self._readers.shutdown(cancel_futures=True)

    async def _ingest(self, video: StoredVideo) -> None:
        given = (
            self._predictor,
            self._model,
            self._settings,
            video.path,
            video.name,
            video.progress,
            video.cancelled,
        )
        try:
            memory = await asyncio.get_running_loop().run_in_executor(
                self._readers, self._begin, video, *given
            )
            if not video.cancelled.is_set():
                video.memory_key, video.thumbnails = (
                    await asyncio.to_thread(self._cache.put, memory),
                    memory.thumbnails,
                )
                video.status = "remembered"
                if video.cancelled.is_set():  # meanwhile
                    self._forget(video)
                self._metrics.add("lit_hour_video_frames_total", memory.num_frames)
        except InputError as error:
            video.status, video.error = "refused", str(error)
        except DecodingCancelledError:
            video.status = "refused"
        finally:
            if video.status in ("waiting", "remembering") and not video.cancelled.is_set():
                video.status, video.error = (
                    "refused",
                    "the server failed to remember this video; its log says why",
                )
            if video.status == "refused":
                self._delete_file(video)
            self._metrics.add(
                "lit_hour_videos_total",
                state=video.status if not video.cancelled.is_set() else "dropped",
            )
            video.finished.set()

    def _begin(self, video: StoredVideo, *given: Any) -> VideoMemory:
        if video.cancelled.is_set():
            raise DecodingCancelledError
        video.status = "remembering"
        return ingest_video(*given)

    def _forget(self, video: StoredVideo) -> None:
        """Take its memory off the shelf, which may have to wait until it is read or written."""
        if video.memory_key:
            asyncio.get_running_loop().run_in_executor(None, self._cache.remove, video.memory_key)

    def _delete_file(self, video: StoredVideo) -> None:
        if video.is_upload:
            video.path.unlink(missing_ok=True)

    def _least_recently_used(self) -> StoredVideo | None:
        """The least recently used video that is not being remembered."""
        settled = [video for video in self._videos.values() if video.finished.is_set()]
        return min(settled, key=lambda video: video.last_used, default=None)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
