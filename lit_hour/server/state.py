"""The state of the application: its parts, and the operations that need several of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import Request

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.memory_cache import MemoryCache
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.auth import AccessPolicy, AllowedDirs
from lit_hour.server.decode_sandbox import check_video, start_forkserver
from lit_hour.server.generation import GenerationService
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import BoundedQueue, ModelExecutor, cancel_on_disconnect
from lit_hour.server.uploads import LockedTempDir, display_name, receive_upload
from lit_hour.server.video_store import ID_PREFIX, StoredVideo, VideoStore

MAX_CONCURRENT_CHECKS = 2  # each is a process


class AppState:
    """A predictor and everything that many clients need to share it.

    Attributes:
        model_name: as clients request it.
    """

    def __init__(
        self,
        predictor: VideoPredictor,
        model_name: str,
        policy: AccessPolicy,
        allowed_dirs: AllowedDirs,
    ) -> None:
        serving = predictor.config.serving
        self.model_name, self.policy, self.allowed_dirs = model_name, policy, allowed_dirs
        self.settings: ServerConfig = serving.server
        self.metrics, self.executor = Metrics(), ModelExecutor()
        self._upload_dir = LockedTempDir(
            self.settings.upload_folder, "serving.server.upload_folder"
        )
        self._memory_dir = LockedTempDir(serving.memory_folder, "serving.memory_folder")
        budget_bytes = int(serving.memory_cache_gb * 1e9)
        self.cache = MemoryCache(predictor, self.memory_dir, budget_bytes)
        self.videos = VideoStore(predictor, self.executor, self.cache, self.settings, self.metrics)
        self.queue = BoundedQueue(
            self.settings.max_concurrent_requests, self.settings.max_queue_length, "requests"
        )
        self.uploads = BoundedQueue(self.settings.max_concurrent_uploads, 0, "uploads")
        self.generation = GenerationService(
            predictor, self.executor, self.videos, self.queue, self.metrics
        )
        self._checks = asyncio.Semaphore(MAX_CONCURRENT_CHECKS)
        self._add_gauges()
        start_forkserver()

    @property
    def upload_dir(self) -> Path:
        """The directory of the uploads."""
        return self._upload_dir.path

    @property
    def memory_dir(self) -> Path:
        """The directory of the memories that were spilled to disk."""
        return self._memory_dir.path

    async def add_upload(self, request: Request, name: str) -> StoredVideo:
        """Receive the video in the body of a request, check it, and add it to the store.

        Raises:
            HTTPException: the store is full, the body is too large, or the client disconnected.
            VideoError: the body is not a video that the server accepts.
        """
        async with self.uploads.admit():
            self.videos.check_capacity()
            path = await receive_upload(request, self.upload_dir, self.settings)
            video: StoredVideo | None = None
            try:
                video = await cancel_on_disconnect(
                    request, self._check_and_add(path, display_name(name), is_upload=True)
                )
            finally:
                if video is None:
                    path.unlink(missing_ok=True)
            self.metrics.uploaded_bytes.inc(path.stat().st_size)
            return video

    async def resolve_video(self, request: Request, url: str) -> StoredVideo:
        """Return the video with an id or a `file:///` URL; a file is added if necessary.

        Raises:
            HTTPException: there is no such video, or the path is not allowed.
            VideoError: the file is not a video that the server accepts.
        """
        if url.startswith(ID_PREFIX):
            return self.videos.get(url)
        path = self.allowed_dirs.resolve(url)
        video = self.videos.find_by_path(path)
        if video is not None:
            return self.videos.get(video.id)
        return await cancel_on_disconnect(
            request, self._check_and_add(path, path.name, is_upload=False)
        )

    def close(self) -> None:
        """Stop everything, and delete the uploads and memories."""
        self.videos.close()
        self.executor.close()
        self._upload_dir.close()
        self._memory_dir.close()

    async def _check_and_add(self, path: Path, name: str, *, is_upload: bool) -> StoredVideo:
        async with self._checks:
            header = await asyncio.to_thread(check_video, path, name, self.settings)
        # another request may have added the same file meanwhile
        existing = None if is_upload else self.videos.find_by_path(path)
        return existing or self.videos.add(name, path, header, is_upload)

    def _add_gauges(self) -> None:
        for name, documentation, read in (
            ("requests_running", "requests that generate", lambda: self.queue.running),
            (
                "requests_waiting",
                "requests that wait for their video or their turn",
                lambda: self.queue.in_system - self.queue.running,
            ),
            (
                "uploads_running",
                "uploads that are received or checked",
                lambda: self.uploads.in_system,
            ),
            ("videos_stored", "videos in the store", lambda: len(self.videos)),
            ("memory_cache_bytes", "video memories in RAM", lambda: self.cache.num_bytes),
            (
                "upload_files",
                "uploaded files on disk",
                lambda: len(list(self.upload_dir.iterdir())),
            ),
        ):
            self.metrics.add_gauge(f"lit_hour_{name}", documentation, read)
