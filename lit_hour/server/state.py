"""The parts of a server, and what takes several of them: to bring a video, and to find the one that a client means."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import Request

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.memory_cache import MemoryShelf
from lit_hour.inference.predictor import Session
from lit_hour.server.auth import Access, Folders
from lit_hour.server.decode_sandbox import check_video, warm_up
from lit_hour.server.generation import Answering
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import Line, ModelThread, unless_gone
from lit_hour.server.uploads import HeldFolder, display_name, receive_file
from lit_hour.server.video_store import ID_PREFIX, Library, Video

CHECKS_AT_ONCE = 2  # each is a process


class Server:
    """A session that many ask.

    Attributes:
        name: of the model, as clients ask for it.
    """

    def __init__(self, session: Session, name: str, access: Access, folders: Folders) -> None:
        self.session, self.name, self.access, self.folders = session, name, access, folders
        self.settings: ServerConfig = session.config.serving.server
        self.metrics, self.model = Metrics(), ModelThread()
        self._memories = HeldFolder(session.config.serving.memory_folder, "serving.memory_folder")
        shelf = MemoryShelf(
            session, self.memory_folder, int(session.config.serving.memory_gigabytes * 1e9)
        )
        self.library = Library(session, self.model, shelf, self.settings, self.metrics)
        self.line = Line(self.settings.answers_at_once, self.settings.queue_length, "questions")
        self.uploads = Line(self.settings.uploads_at_once, 0, "uploads")
        self.answering = Answering(session, self.model, self.library, self.line, self.metrics)
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._folder = HeldFolder(self.settings.upload_folder, "serving.server.upload_folder")
        self.metrics.gauges |= {
            "lit_hour_questions_in_line": (
                "questions that are answered or wait",
                lambda: self.line.num_in,
            ),
            "lit_hour_questions_answered_now": (
                "questions whose turn it is",
                lambda: self.line.num_served,
            ),
            "lit_hour_uploads_now": (
                "videos that are received or checked",
                lambda: self.uploads.num_in,
            ),
            "lit_hour_videos_kept": (
                "videos that can be asked about, or will be",
                lambda: len(self.library),
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
        warm_up()

    @property
    def upload_folder(self) -> Path:
        """Where uploads are kept."""
        return self._folder.path

    @property
    def memory_folder(self) -> Path:
        """Where memories are kept that are more than the budget."""
        return self._memories.path

    async def bring_upload(self, request: Request, name: str) -> Video:
        """Take the video in the body of a request, once it is checked.

        Raises:
            RefusedError: there is no room for it, it is too large, or the client left.
            VideoError: it is no video that can be taken.
        """
        async with self.uploads.place():
            self.library.check_room()
            path = await receive_file(request, self.upload_folder, self.settings)
            video: Video | None = None
            try:
                video = await unless_gone(
                    request, self._bring(path, display_name(name), is_upload=True)
                )
            finally:
                if video is None:
                    path.unlink(missing_ok=True)
            self.metrics.add("lit_hour_upload_bytes_total", path.stat().st_size)
            return video

    async def find_video(self, request: Request, url: str) -> Video:
        """The video that was brought, by its id, or a file of an allowed folder, by its URL; it is brought if need be.

        Raises:
            RefusedError: there is none, or a path that may not be read.
            VideoError: it is no video that can be taken.
        """
        if url.startswith(ID_PREFIX):
            return self.library.find(url)
        path = self.folders.find(url)
        found = self.library.find_file(path)
        if found is not None:
            return self.library.find(found.id)
        return await unless_gone(request, self._bring(path, path.name, is_upload=False))

    def close(self) -> None:
        """Stop everything, and delete the uploads."""
        self.library.close()
        self.model.close()
        self._folder.close()
        self._memories.close()

    async def _bring(self, path: Path, name: str, *, is_upload: bool) -> Video:
        async with self._checks:
            header = await asyncio.to_thread(check_video, path, name, self.settings)
        meanwhile = (
            None if is_upload else self.library.find_file(path)
        )  # another may have asked for the same file
        return meanwhile or self.library.add(name, path, header, is_upload)
