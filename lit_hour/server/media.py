"""The media of requests: uploads, data URLs, http(s) URLs, and files in allowed directories.

Entry point: `MediaLoader`. What clients send is written to the upload directory, checked in a
sandbox, and deleted when it is refused. A video that comes again is not encoded again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from fastapi import Request

from lit_hour.config.schema import Config
from lit_hour.errors import DownloadError
from lit_hour.io.download import DownloadLimits, download
from lit_hour.io.hashing import hash_path
from lit_hour.io.urls import is_web_url
from lit_hour.server.auth import AllowedDirs
from lit_hour.server.chat_request import MediaPart
from lit_hour.server.data_urls import decode_data_url
from lit_hour.server.decode_sandbox import check_video
from lit_hour.server.http_errors import FieldError
from lit_hour.server.image_sandbox import decode_images
from lit_hour.server.metrics import Metrics
from lit_hour.server.queueing import AdmissionLimit, cancel_on_disconnect
from lit_hour.server.stored_video import ID_PREFIX, StoredVideo
from lit_hour.server.uploads import display_name, new_file, receive_upload
from lit_hour.server.video_store import VideoStore
from lit_hour.types import ImageSet, TiledImage

Result = TypeVar("Result")

MAX_CONCURRENT_CHECKS = 2  # each is a process
URL_REUSE_SECONDS = 600.0  # a URL is not downloaded again for this long; conversations repeat it


class MediaLoader:
    """Loads the media that clients send or name."""

    def __init__(
        self,
        config: Config,
        videos: VideoStore,
        allowed_dirs: AllowedDirs,
        directory: Path,
        uploads: AdmissionLimit,
        metrics: Metrics,
    ) -> None:
        """Args: directory: of the files; uploads: limits the uploads at one time."""
        self._config, self._videos, self._allowed_dirs = config, videos, allowed_dirs
        self._directory, self._uploads, self._metrics = directory, uploads, metrics
        self._settings = config.serving.server
        # of its own, since a request that names a URL may count as an upload already
        self._downloads = AdmissionLimit(self._settings.max_concurrent_uploads, "downloads")
        self._checks = asyncio.Semaphore(MAX_CONCURRENT_CHECKS)
        self._downloaded: dict[str, tuple[str, float]] = {}  # id of the video and time by URL

    async def add_upload(self, request: Request, name: str, is_live: bool = False) -> StoredVideo:
        """Receive the video in the body of a request, check it, and add it to the store.

        Args:
            request: with the video.
            name: for display.
            is_live: further parts of the video will follow.

        Raises:
            HTTPException: the store is full, the body is too large, or the client disconnected.
            VideoError: the body is not a video that the server accepts.
        """
        async with self._uploads.admit():
            self._videos.check_capacity()
            path, file_name = await receive_upload(request, self._directory, self._settings)
            adding = self._add_file(path, display_name(name or file_name), is_live=is_live)
            return await cancel_on_disconnect(request, adding)

    async def append_upload(self, request: Request, video: StoredVideo) -> StoredVideo:
        """Receive the next part of a video in the body of a request, check it, and append it.

        Raises:
            HTTPException: as `add_upload`, or the video failed or was removed.
            InputError: the part is not a video that the server accepts; nothing is appended.
        """
        async with self._uploads.admit():
            path, _ = await receive_upload(request, self._directory, self._settings)
            return await cancel_on_disconnect(request, self._append_file(video, path))

    async def _append_file(self, video: StoredVideo, path: Path) -> StoredVideo:
        """Append a file in the upload directory, which is deleted."""
        try:
            num_bytes = path.stat().st_size
            async with self._checks:
                await _run_sandbox(check_video, path, video.name, self._settings)
            await self._videos.append(video, path)
            self._metrics.uploaded_bytes.inc(num_bytes)
            return video
        finally:
            path.unlink(missing_ok=True)

    async def open_video(
        self, request: Request, part: MediaPart, attachments: Mapping[str, bytes]
    ) -> StoredVideo:
        """Return the video that a request names; it is added to the store if necessary.

        Args:
            request: its body must have been read.
            part: with the id or URL.
            attachments: the data URLs of the request by name.

        Raises:
            HTTPException: there is no such video, or the path or URL is not allowed.
            InputError: the file is not a video that the server accepts, or cannot be downloaded.
        """
        if part.url.startswith(ID_PREFIX):
            return self._videos.get(part.url)
        if part.url in attachments or part.url.startswith("data:"):
            return await cancel_on_disconnect(request, self._add_data_url(part, attachments))
        if is_web_url(part.url):
            return await cancel_on_disconnect(request, self._add_web_url(part))
        path = self._allowed_dirs.resolve(part.url)
        video = self._videos.find_by_path(path)
        if video is not None:
            return self._videos.get(video.id)
        return await cancel_on_disconnect(request, self._add_allowed_file(path))

    async def load_images(
        self, request: Request, parts: Sequence[MediaPart], attachments: Mapping[str, bytes]
    ) -> TiledImage | ImageSet:
        """Decode the images of a request; nothing of them is kept.

        Raises:
            HTTPException, InputError: as `open_video`, for images.
        """
        return await cancel_on_disconnect(request, self._load_images(parts, attachments))

    async def _load_images(
        self, parts: Sequence[MediaPart], attachments: Mapping[str, bytes]
    ) -> TiledImage | ImageSet:
        paths: list[Path] = []
        max_bytes = self._settings.max_request_mb * 1_000_000  # of all downloads together
        async with AsyncExitStack() as stack:
            for part in parts:
                file = self._image_file(part, attachments, max_bytes)
                paths.append(await stack.enter_async_context(file))
                if is_web_url(part.url):
                    max_bytes -= paths[-1].stat().st_size
            async with self._checks:
                return await _run_sandbox(decode_images, paths, self._config)

    @asynccontextmanager
    async def _image_file(
        self, part: MediaPart, attachments: Mapping[str, bytes], max_bytes: int
    ) -> AsyncIterator[Path]:
        """Return the file of an image; a temporary file is deleted at the end.

        Args:
            part: with the id or URL.
            attachments: the data URLs of the request by name.
            max_bytes: of a download.
        """
        if part.url.startswith(ID_PREFIX):
            yield self._videos.get(part.url).path
        elif part.url in attachments or part.url.startswith("data:"):
            content = await asyncio.to_thread(_decode, part, attachments)
            async with _temporary(self._directory) as path:
                await asyncio.to_thread(path.write_bytes, content)
                yield path
        elif is_web_url(part.url):
            async with _temporary(self._directory) as path:
                await self._download(part, path, max_bytes)
                yield path
        else:
            yield self._allowed_dirs.resolve(part.url)

    async def _add_data_url(self, part: MediaPart, attachments: Mapping[str, bytes]) -> StoredVideo:
        content = await asyncio.to_thread(_decode, part, attachments)
        digest = (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
        video = self._videos.find_by_digest(digest)
        if video is not None:
            return video
        self._videos.check_capacity()
        async with new_file(self._directory) as path:
            await asyncio.to_thread(path.write_bytes, content)
        return await self._add_file(path, "video", digest)

    async def _add_web_url(self, part: MediaPart) -> StoredVideo:
        video_id, seconds = self._downloaded.get(part.url, ("", 0.0))
        if self._videos.has(video_id) and time.monotonic() - seconds < URL_REUSE_SECONDS:
            return self._videos.get(video_id)
        self._videos.check_capacity()
        async with new_file(self._directory) as path:
            await self._download(part, path, self._settings.max_upload_mb * 1_000_000)
            digest = await asyncio.to_thread(hash_path, path)
        name = display_name(unquote(PurePosixPath(urlsplit(part.url).path).name))
        video = await self._add_file(path, name, digest)
        known = self._downloaded.items()
        self._downloaded = {url: entry for url, entry in known if self._videos.has(entry[0])}
        self._downloaded[part.url] = (video.id, time.monotonic())
        return video

    async def _download(self, part: MediaPart, path: Path, max_bytes: int) -> None:
        settings = self._settings
        if not settings.allow_urls:
            raise FieldError(
                part.field,
                f"{part.field} is an http(s) URL, and this server reads none. Send the file as a"
                " data URL or an upload, or set serving.server.allow_urls=true.",
            )
        limits = DownloadLimits(max_bytes, settings.url_timeout_seconds)
        try:
            async with self._downloads.admit():
                await download(part.url, path, limits)
        except DownloadError as error:
            raise FieldError(part.field, str(error)) from error

    async def _add_allowed_file(self, path: Path) -> StoredVideo:
        async with self._checks:
            header = await _run_sandbox(check_video, path, path.name, self._settings)
        # another request may have added the same file meanwhile
        existing = self._videos.find_by_path(path)
        return existing or self._videos.add(path.name, path, header, is_upload=False)

    async def _add_file(
        self, path: Path, name: str, digest: str = "", is_live: bool = False
    ) -> StoredVideo:
        """Check a file in the upload directory, and add it to the store or delete it."""
        video: StoredVideo | None = None
        try:
            num_bytes = path.stat().st_size
            async with self._checks:
                header = await _run_sandbox(check_video, path, name, self._settings)
            existing = self._videos.find_by_digest(digest) if digest else None
            if existing is not None:
                return existing
            video = self._videos.add(name, path, header, True, digest, is_live)
            self._metrics.uploaded_bytes.inc(num_bytes)
            return video
        finally:
            if video is None:
                path.unlink(missing_ok=True)


async def _run_sandbox(work: Callable[..., Result], *args: Any) -> Result:
    """Run sandboxed work in a thread; when this is cancelled, its process is killed.

    Args:
        work: takes `args`, and an event that cancels it.
        args: further arguments.
    """
    cancelled = Event()
    try:
        return await asyncio.to_thread(work, *args, cancelled)
    finally:
        cancelled.set()


@asynccontextmanager
async def _temporary(directory: Path) -> AsyncIterator[Path]:
    async with new_file(directory) as path:
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _decode(part: MediaPart, attachments: Mapping[str, bytes]) -> bytes:
    url = attachments.get(part.url)
    return decode_data_url(part.url.encode() if url is None else url, part.kind, part.field)
