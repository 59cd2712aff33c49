"""The videos of one server: encoded in the background, kept up to a limit, LRU beyond it.

Entry point: `VideoStore`. Files are decoded in a sandboxed process and encoded on the model
executor. Memories are kept in a `MemoryCache`, which spills to disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

from fastapi import HTTPException

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import InputError, MemoryFileError
from lit_hour.inference.memory_cache import MemoryCache
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory, VideoMemoryBuilder
from lit_hour.io.out_of_memory import explain_out_of_memory
from lit_hour.server.admission import ByteBudget
from lit_hour.server.decode_sandbox import (
    DecodingCancelledError,
    VideoHeader,
    decode_in_sandbox,
)
from lit_hour.server.http_errors import input_error_status
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import ModelExecutor
from lit_hour.server.stored_video import StoredVideo, file_stamp
from lit_hour.server.video_append import PartOfVideo, append_part

MAX_CONCURRENT_INGESTS = 2  # so that a short video does not wait for a long one
RETRY_AFTER_SECONDS = 10
REMOVED_MEANWHILE = "This video was removed meanwhile, and the part with it. Upload it again."


class VideoStore:
    """The videos of one server by id."""

    def __init__(
        self,
        predictor: VideoPredictor,
        executor: ModelExecutor,
        cache: MemoryCache,
        settings: ServerConfig,
        metrics: Metrics,
    ) -> None:
        self._predictor, self._executor, self._cache = predictor, executor, cache
        self._settings, self._metrics = settings, metrics
        self._leases = ByteBudget(int(predictor.config.serving.memory_cache_gb * 1e9))
        self._videos: dict[str, StoredVideo] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ingest_threads = ThreadPoolExecutor(MAX_CONCURRENT_INGESTS, "ingest")

    def __len__(self) -> int:
        return len(self._videos)

    def list(self) -> list[StoredVideo]:
        """Return all videos, the latest last."""
        return list(self._videos.values())

    def get(self, video_id: str) -> StoredVideo:
        """Return a video and mark it as used.

        Raises:
            HTTPException: 404, there is no such video.
        """
        video = self._videos.get(video_id)
        if video is None:
            raise HTTPException(
                404, "There is no such video, or it was evicted for a newer one. Upload it again."
            )
        video.last_used = time.monotonic()
        return video

    def find_by_path(self, path: Path) -> StoredVideo | None:
        """Return the video of a file, unless it failed, or one of the two changed."""
        for video in self._videos.values():
            if video.path == path and video.is_reusable and video.file_stamp == file_stamp(path):
                return video
        return None

    def find_by_digest(self, digest: str) -> StoredVideo | None:
        """Return the video of a file with this SHA-256, marked as used, unless it changed."""
        for video in self._videos.values():
            if video.digest == digest and video.is_reusable:
                return self.get(video.id)
        return None

    def has(self, video_id: str) -> bool:
        """Return whether there is a video with this id that did not fail."""
        video = self._videos.get(video_id)
        return video is not None and video.status != "failed"

    def check_capacity(self) -> None:
        """Check that one more video can be added.

        Raises:
            HTTPException: 429, the store is full of videos that are still being encoded.
        """
        if self._is_full() and self._least_recently_used() is None:
            raise HTTPException(
                429,
                f"{len(self._videos)} videos are being encoded. Try again later.",
                {"Retry-After": str(RETRY_AFTER_SECONDS)},
            )

    def add(
        self,
        name: str,
        path: Path,
        header: VideoHeader,
        is_upload: bool,
        digest: str = "",
        is_live: bool = False,
    ) -> StoredVideo:
        """Add a video, start to encode it, and evict the least recently used one if necessary.

        Raises:
            HTTPException: as `check_capacity`.
        """
        self.check_capacity()
        while self._is_full() and (victim := self._least_recently_used()):
            self.remove(victim)
        video = StoredVideo(name, path, header, is_upload, digest, is_live)
        self._videos[video.id] = video
        task = asyncio.create_task(self._ingest(video))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return video

    async def append(self, video: StoredVideo, part: Path) -> None:
        """Append a file to a video, and return when it is encoded; an error appends nothing.

        When this is cancelled, the process that decodes the file is killed.

        Raises:
            HTTPException: as `lease_memory`.
            InputError: see `append_part`.
        """
        loop = asyncio.get_running_loop()
        async with video.append_lock, self.lease_memory(video) as memory:
            cancelled = video.append_cancelled = Event()
            try:
                with explain_out_of_memory(lambda _: self._describe_size(video)):
                    longer = await loop.run_in_executor(
                        self._ingest_threads,
                        append_part,
                        self._predictor,
                        self._executor,
                        self._settings,
                        PartOfVideo(part, video.name, cancelled),
                        memory,
                    )
            except DecodingCancelledError as error:
                raise HTTPException(404, REMOVED_MEANWHILE) from error
            finally:
                cancelled.set()
            await asyncio.to_thread(self._replace, video, longer)
        self._metrics.encoded_frames.inc(max(longer.num_frames - memory.num_frames, 0))

    def _replace(self, video: StoredVideo, memory: VideoMemory) -> None:
        """Replace the memory of a video by a longer one."""
        try:
            self._cache.replace(video.memory_key, memory)
        except MemoryFileError as error:
            raise HTTPException(404, REMOVED_MEANWHILE) from error
        video.header = replace(video.header, duration_seconds=memory.duration_seconds)
        video.num_parts, video.thumbnails = video.num_parts + 1, memory.thumbnails
        video.progress.num_frames = video.progress.num_encoded = memory.num_frames

    def remove(self, video: StoredVideo) -> None:
        """Remove a video, and cancel its encoding."""
        self._videos.pop(video.id, None)
        video.cancelled.set()
        video.append_cancelled.set()
        self._delete_memory(video)
        self._delete_file(video)

    @asynccontextmanager
    async def lease_memory(self, video: StoredVideo) -> AsyncIterator[VideoMemory]:
        """Wait until a video is ready, and pin its memory in RAM for the duration of the block.

        Of all that are pinned at one time no more than `serving.memory_cache_gb` is in RAM, unless
        a single one is larger; a further one waits.

        Raises:
            HTTPException: 422, the video failed, or 503, for lack of memory; 404, it was removed
                meanwhile.
            OutOfMemoryError: the memory cannot be read from disk.
        """
        await video.finished.wait()
        if video.error:
            raise HTTPException(video.error_status, video.error)
        async with AsyncExitStack() as stack:
            try:
                num_bytes = self._cache.size_bytes(video.memory_key)
                await stack.enter_async_context(self._leases.hold(video.memory_key, num_bytes))
                lease = self._cache.lease_async(video.memory_key)
                with explain_out_of_memory(lambda _: self._describe_size(video)):
                    memory = await stack.enter_async_context(lease)
            except MemoryFileError as error:
                message = "This video is no longer available. Upload it again."
                raise HTTPException(404, message) from error
            yield memory

    def close(self) -> None:
        """Cancel all encoding, and delete the uploads."""
        for video in self.list():
            self.remove(video)
        self._ingest_threads.shutdown(cancel_futures=True)

    async def _ingest(self, video: StoredVideo) -> None:
        """Encode a video in a thread, and record how it ended."""
        loop = asyncio.get_running_loop()
        try:
            with explain_out_of_memory(lambda _: self._describe_size(video)):
                memory = await loop.run_in_executor(self._ingest_threads, self._encode, video)
                if not video.cancelled.is_set():
                    video.memory_key = await asyncio.to_thread(self._cache.put, memory)
            if not video.cancelled.is_set():
                video.thumbnails, video.status = memory.thumbnails, "ready"
                if video.cancelled.is_set():  # removed meanwhile
                    self._delete_memory(video)
                self._metrics.encoded_frames.inc(memory.num_frames)
        except InputError as error:
            video.status, video.error = "failed", str(error)
            video.error_status = input_error_status(error)
        except DecodingCancelledError:
            video.status = "failed"
        finally:
            if video.status in ("queued", "encoding") and not video.cancelled.is_set():
                video.status = "failed"
                video.error = "The server failed to encode this video. See its log."
            if video.status == "failed":
                self._delete_file(video)
            outcome = "removed" if video.cancelled.is_set() else video.status
            self._metrics.videos.labels(outcome).inc()
            video.finished.set()

    def _encode(self, video: StoredVideo) -> VideoMemory:
        if video.cancelled.is_set():
            raise DecodingCancelledError
        video.status = "encoding"
        return ingest_video(self._predictor, self._executor, self._settings, video)

    def _describe_size(self, video: StoredVideo) -> str:
        config = self._predictor.config
        return (
            f"{video.name} does not fit into memory with its {video.progress.num_frames} frames."
            f" Take a shorter video, or lower video.max_frames={config.video.max_frames},"
            f" serving.memory_cache_gb={config.serving.memory_cache_gb:g} or"
            f" model.vision.encode_batch_size={config.model.vision.encode_batch_size}."
        )

    def _delete_memory(self, video: StoredVideo) -> None:
        """Delete the memory in a thread, since it may be in the middle of disk I/O."""
        if video.memory_key:
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._cache.remove, video.memory_key)

    def _delete_file(self, video: StoredVideo) -> None:
        if video.is_upload:
            video.path.unlink(missing_ok=True)

    def _is_full(self) -> bool:
        return len(self._videos) >= self._settings.max_videos

    def _least_recently_used(self) -> StoredVideo | None:
        finished = [video for video in self._videos.values() if video.finished.is_set()]
        return min(finished, key=lambda video: video.last_used, default=None)


def ingest_video(
    predictor: VideoPredictor, executor: ModelExecutor, settings: ServerConfig, video: StoredVideo
) -> VideoMemory:
    """Decode a video in a sandbox, encode it on the model executor, and update its progress.

    Raises:
        VideoError: the file cannot be decoded.
        DecodingCancelledError: `video.cancelled` was set.
    """
    config, progress = predictor.config, video.progress
    chunk_frames = config.model.vision.encode_batch_size
    progress.started, encode_seconds = time.monotonic(), 0.0
    with decode_in_sandbox(
        video.path,
        video.name,
        config.video,
        chunk_frames,
        settings,
        video.cancelled,
        start_seconds=0.0 if video.is_live else None,
    ) as sandboxed:
        progress.num_frames = sandboxed.num_frames
        builder = VideoMemoryBuilder(predictor.model, predictor.processor, sandboxed.num_frames)
        for frames in sandboxed.chunks():
            decoded = time.monotonic()
            executor.submit(builder.add, frames).result()
            encode_seconds += time.monotonic() - decoded
            progress.num_encoded = builder.stream.num_frames
    decode_seconds = time.monotonic() - progress.started - encode_seconds
    progress.warnings = sandboxed.warnings
    duration_seconds = sandboxed.duration_seconds
    subtitles = () if video.is_upload else predictor.read_subtitles(video.path)
    memory = executor.submit(builder.finalize, duration_seconds, video.name, subtitles).result()
    return replace(memory, seconds={"decode": decode_seconds, "encode": encode_seconds})
