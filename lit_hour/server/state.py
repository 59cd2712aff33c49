"""The parts of a server, and what takes several of them: to bring a video, and to find the one that a client means."""

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
    """A predictor that many ask.

    Attributes:
        name: of the model, as clients ask for it.
    """

    def __init__(
        self, predictor: VideoPredictor, name: str, access: AccessPolicy, folders: AllowedDirs
    ) -> None:
        self.predictor, self.model_name, self.access, self.allowed_dirs = (
            predictor,
            name,
            access,
            folders,
        )
        self.settings: ServerConfig = predictor.config.serving.server
        self.metrics, self.executor = Metrics(), ModelExecutor()
        self._memories = LockedTempDir(
            predictor.config.serving.memory_folder, "serving.memory_folder"
        )
        shelf = MemoryCache(
            predictor, self.memory_folder, int(predictor.config.serving.memory_cache_gb * 1e9)
        )
        self.videos = VideoStore(predictor, self.executor, shelf, self.settings, self.metrics)
        self.queue = BoundedQueue(
            self.settings.max_concurrent_requests, self.settings.max_queue_length, "questions"
        )
        self.uploads = BoundedQueue(self.settings.max_concurrent_uploads, 0, "uploads")
        self.generation = GenerationService(
            predictor, self.executor, self.videos, self.queue, self.metrics
        )
        self._checks = asyncio.Semaphore(MAX_CONCURRENT_CHECKS)
        self._folder = LockedTempDir(self.settings.upload_folder, "serving.server.upload_folder")
        self.metrics.gauges |= {
            "lit_hour_questions_in_line": (
                "questions that are answered or wait",
                lambda: self.queue.in_system,
            ),
            "lit_hour_questions_answered_now": (
                "questions whose turn it is",
                lambda: self.queue.running,
            ),
            "lit_hour_uploads_now": (
                "videos that are received or checked",
                lambda: self.uploads.in_system,
            ),
            "lit_hour_videos_kept": (
                "videos that can be asked about, or will be",
                lambda: len(self.videos),
            ),
            "lit_hour_memory_bytes": (
                "memories that are ready to be asked",
                lambda: shelf.num_bytes,
            ),
            "lit_hour_upload_files": (
                "files of uploads on the disk",
                lambda: len(list(self.upload_folder.iterdir())),
            ),
        }
        start_forkserver()

    @property
    def upload_folder(self) -> Path:
        """Where uploads are kept."""
        return self._folder.path

    @property
    def memory_folder(self) -> Path:
        """Where memories are kept that are more than the budget."""
        return self._memories.path

    async def add_upload(self, request: Request, name: str) -> StoredVideo:
        """Take the video in the body of a request, once it is checked.

        Raises:
            RefusedError: there is no room for it, it is too large, or the client left.
            VideoError: it is no video that can be taken.
        """
        async with self.uploads.admit():
            self.videos.check_capacity()
            path = await receive_upload(request, self.upload_folder, self.settings)
            video: StoredVideo | None = None
            try:
                video = await cancel_on_disconnect(
                    request, self._bring(path, display_name(name), is_upload=True)
                )
            finally:
                if video is None:
                    path.unlink(missing_ok=True)
            self.metrics.add("lit_hour_upload_bytes_total", path.stat().st_size)
            return video

    async def resolve_video(self, request: Request, url: str) -> StoredVideo:
        """The video that was brought, by its id, or a file of an allowed folder, by its URL; it is brought if need be.

        Raises:
            RefusedError: there is none, or a path that may not be read.
            VideoError: it is no video that can be taken.
        """
        if url.startswith(ID_PREFIX):
            return self.videos.get(url)
        path = self.allowed_dirs.resolve(url)
        found = self.videos.find_by_path(path)
        if found is not None:
            return self.videos.get(found.id)
        return await cancel_on_disconnect(request, self._bring(path, path.name, is_upload=False))

    def close(self) -> None:
        """Stop everything, and delete the uploads."""
        self.videos.close()
        self.executor.close()
        self._folder.close()
        self._memories.close()

    async def _bring(self, path: Path, name: str, *, is_upload: bool) -> StoredVideo:
        async with self._checks:
            header = await asyncio.to_thread(check_video, path, name, self.settings)
        meanwhile = (
            None if is_upload else self.videos.find_by_path(path)
        )  # another may have asked for the same file
        return meanwhile or self.videos.add(name, path, header, is_upload)
