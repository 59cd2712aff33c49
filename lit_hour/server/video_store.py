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

import torch

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import InputError, MemoryFileError
from lit_hour.inference.memory_cache import MemoryShelf
from lit_hour.inference.predictor import Session
from lit_hour.inference.video_memory import Memory, Recollection
from lit_hour.server.decode_sandbox import CancelledDecodingError, Header, decode_apart
from lit_hour.server.http_errors import RefusedError
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import ModelThread
from lit_hour.types import Frames, Picture


@dataclass
class Reading:
    """How far a video was read.

    Attributes:
        num_frames: that will be read; 0 until that is known.
        notes: what was warned of.
    """

    num_frames: int = 0
    frames_read: int = 0
    started: float = 0.0
    notes: list[str] = field(default_factory=list)

    def seconds_left(self) -> float | None:
        """As long as the frames that are left will take at the pace so far; None until there is a pace."""
        if not self.frames_read:
            return None
        return (
            (time.monotonic() - self.started)
            / self.frames_read
            * (self.num_frames - self.frames_read)
        )


def remember_apart(
    session: Session,
    model: ModelThread,
    settings: ServerConfig,
    path: Path,
    name: str,
    reading: Reading,
    cancelled: Event,
) -> Memory:
    """Remember a video, and tell `reading` how far it is.

    Raises:
        VideoError: the file cannot be read.
        CancelledDecodingError: `cancelled` was set meanwhile.
    """
    chunk_frames = session.config.model.vision.chunk_frames
    reading.started, encode_seconds = time.monotonic(), 0.0
    with decode_apart(path, name, session.config.video, chunk_frames, settings, cancelled) as video:
        reading.num_frames = video.num_frames
        recollection = model.submit(_begin, session, video.num_frames).result()
        for frames in video.chunks():
            decoded = time.monotonic()
            model.submit(_encode, session, recollection, frames).result()
            encode_seconds += time.monotonic() - decoded
            reading.frames_read = recollection.num_seen
    decode_seconds = time.monotonic() - reading.started - encode_seconds
    reading.notes = video.notes
    memory = model.submit(_keep, session, recollection, video.duration_seconds, name).result()
    return replace(memory, seconds={"decode": decode_seconds, "encode": encode_seconds})


@torch.inference_mode()
def _begin(session: Session, num_frames: int) -> Recollection:
    return Recollection(session.model, num_frames)


@torch.inference_mode()
def _encode(session: Session, recollection: Recollection, frames: Frames) -> None:
    recollection.add(frames.to(session.device))


@torch.inference_mode()
def _keep(
    session: Session, recollection: Recollection, duration_seconds: float, name: str
) -> Memory:
    return session.keep(recollection, duration_seconds, name)


State = Literal["waiting", "remembering", "remembered", "refused"]

ID_PREFIX = "video-"
READ_AT_ONCE = 2  # videos, so that a short one need not wait for a long one


@dataclass(eq=False)
class Video:
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
    header: Header
    is_upload: bool
    id: str = field(default_factory=lambda: f"{ID_PREFIX}{secrets.token_urlsafe(12)}")
    state: State = "waiting"
    reason: str = ""
    key: str = ""
    pictures: tuple[Picture, ...] = ()
    reading: Reading = field(default_factory=Reading)
    cancelled: Event = field(default_factory=Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    used: float = field(default_factory=time.monotonic)
    stamp: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.stamp = _stamp(self.path)

    def describe(self) -> dict[str, Any]:
        """What clients are told."""
        return {
            "id": self.id,
            "object": "video",
            "url": self.id if self.is_upload else self.path.as_uri(),
            "name": self.name,
            "duration_seconds": self.header.duration_seconds,
            "state": self.state,
            "reason": self.reason,
            "num_frames": self.reading.num_frames,
            "frames_read": self.reading.frames_read,
            "seconds_left": self.reading.seconds_left(),
            "notes": list(self.reading.notes),
            "pictures": [seconds for seconds, _ in self.pictures],
        }


class Library:
    """The videos of one server."""

    def __init__(
        self,
        session: Session,
        model: ModelThread,
        shelf: MemoryShelf,
        settings: ServerConfig,
        metrics: Metrics,
    ) -> None:
        self._session, self._model, self._settings, self._metrics = (
            session,
            model,
            settings,
            metrics,
        )
        self._shelf = shelf
        self._videos: dict[str, Video] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = ThreadPoolExecutor(READ_AT_ONCE, "reader")

    def __len__(self) -> int:
        return len(self._videos)

    def list(self) -> list[Video]:
        """All of them, the latest last."""
        return list(self._videos.values())

    def find(self, video_id: str) -> Video:
        """A video by its id, which counts as using it.

        Raises:
            RefusedError: 404, it is not kept.
        """
        video = self._videos.get(video_id)
        if video is None:
            raise RefusedError(
                404, "there is no such video, or it had to make room for another one: send it again"
            )
        video.used = time.monotonic()
        return video

    def find_file(self, path: Path) -> Video | None:
        """The video that was brought from a file as the file is now, unless it was refused."""
        found = [
            each for each in self._videos.values() if each.path == path and each.state != "refused"
        ]
        return next((each for each in found if each.stamp == _stamp(path)), None)

    def check_room(self) -> None:
        """See whether one more can be taken.

        Raises:
            RefusedError: 429, all that are kept are still being remembered.
        """
        if len(self._videos) >= self._settings.max_videos and self._oldest() is None:
            raise RefusedError(
                429, f"{len(self._videos)} videos are being remembered: try again later", 10
            )

    def add(self, name: str, path: Path, header: Header, is_upload: bool) -> Video:
        """Take a video, and begin to remember it.

        Raises:
            RefusedError: as `check_room`.
        """
        self.check_room()
        while len(self._videos) >= self._settings.max_videos and (oldest := self._oldest()):
            self.drop(oldest)
        video = Video(name, path, header, is_upload)
        self._videos[video.id] = video
        task = asyncio.create_task(self._remember(video))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return video

    def drop(self, video: Video) -> None:
        """Let go of a video, and stop remembering it."""
        self._videos.pop(video.id, None)
        video.cancelled.set()
        self._forget(video)
        self._delete_file(video)

    @asynccontextmanager
    async def memory(self, video: Video) -> AsyncIterator[Memory]:
        """What is remembered of a video, once it is; it stays at hand meanwhile.

        Raises:
            RefusedError: 422, it was refused; 404, it was dropped meanwhile.
        """
        await video.settled.wait()
        if video.reason:
            raise RefusedError(422, video.reason)
        borrowed = self._shelf.borrow(video.key)
        reading = asyncio.ensure_future(asyncio.to_thread(borrowed.__enter__))  # perhaps from disk
        try:
            memory = await asyncio.shield(reading)
        except MemoryFileError as error:
            raise RefusedError(404, "this video is no longer kept: send it again") from error
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
            self.drop(video)
        self._readers.shutdown(cancel_futures=True)

    async def _remember(self, video: Video) -> None:
        given = (
            self._session,
            self._model,
            self._settings,
            video.path,
            video.name,
            video.reading,
            video.cancelled,
        )
        try:
            memory = await asyncio.get_running_loop().run_in_executor(
                self._readers, self._begin, video, *given
            )
            if not video.cancelled.is_set():
                video.key, video.pictures = (
                    await asyncio.to_thread(self._shelf.put, memory),
                    memory.pictures,
                )
                video.state = "remembered"
                if video.cancelled.is_set():  # meanwhile
                    self._forget(video)
                self._metrics.add("lit_hour_video_frames_total", memory.num_frames)
        except InputError as error:
            video.state, video.reason = "refused", str(error)
        except CancelledDecodingError:
            video.state = "refused"
        finally:
            if video.state in ("waiting", "remembering") and not video.cancelled.is_set():
                video.state, video.reason = (
                    "refused",
                    "the server failed to remember this video; its log says why",
                )
            if video.state == "refused":
                self._delete_file(video)
            self._metrics.add(
                "lit_hour_videos_total",
                state=video.state if not video.cancelled.is_set() else "dropped",
            )
            video.settled.set()

    def _begin(self, video: Video, *given: Any) -> Memory:
        if video.cancelled.is_set():
            raise CancelledDecodingError
        video.state = "remembering"
        return remember_apart(*given)

    def _forget(self, video: Video) -> None:
        """Take its memory off the shelf, which may have to wait until it is read or written."""
        if video.key:
            asyncio.get_running_loop().run_in_executor(None, self._shelf.remove, video.key)

    def _delete_file(self, video: Video) -> None:
        if video.is_upload:
            video.path.unlink(missing_ok=True)

    def _oldest(self) -> Video | None:
        """The least recently used video that is not being remembered."""
        settled = [video for video in self._videos.values() if video.settled.is_set()]
        return min(settled, key=lambda video: video.used, default=None)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
