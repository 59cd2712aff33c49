"""Receive uploads within limits of size and time, into a temporary directory.

Entry points: `receive_upload`, `new_file` and `LockedTempDir`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path, PurePath
from tempfile import gettempdir, mkdtemp
from typing import BinaryIO

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import ServerError
from lit_hour.server.multipart import MultipartFile, multipart_boundary
from lit_hour.server.request_body import iter_body

DIR_PREFIX = "lit_hour_serve_"
MIN_DIR_AGE_SECONDS = 60.0  # a younger directory may not be locked yet by the server that makes it
MAX_NAME_LENGTH = 120
_WRITE_CHUNK_BYTES = 1 << 20


class LockedTempDir:
    """A private temporary directory, locked while this process lives.

    It is deleted by `close` or, if the process was killed, by the next one that starts.
    """

    def __init__(self, parent: str, setting: str) -> None:
        """Delete what killed servers left in the parent directory, and make a new directory there.

        Args:
            parent: made if it does not exist; empty for the system's temporary directory.
            setting: that named the parent, for the error message.

        Raises:
            ServerError: no directory can be made there.
        """
        try:
            parent_dir = Path(parent or gettempdir())
            parent_dir.mkdir(parents=True, exist_ok=True)
            for leftover in parent_dir.glob(f"{DIR_PREFIX}*"):
                with suppress(FileNotFoundError):  # another server may delete it at the same time
                    _delete_if_unlocked(leftover)
            self.path = Path(mkdtemp(prefix=DIR_PREFIX, dir=parent_dir))
            self._descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ServerError(
                f"{setting}={parent} cannot be used: {error.strerror}. Give a writable directory."
            ) from error
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Delete the directory and its content."""
        shutil.rmtree(self.path)
        os.close(self._descriptor)


def display_name(name: str) -> str:
    """Return the name of an upload for display; it is never used as a path."""
    last = PurePath(name.replace("\\", "/")).name
    printable = "".join(character for character in last if character.isprintable())
    return printable[:MAX_NAME_LENGTH] or "video"


async def receive_upload(
    request: Request, directory: Path, settings: ServerConfig
) -> tuple[Path, str]:
    """Write the body of a request, or the file in a multipart body, to a file.

    Returns:
        The file, with a random name, and the name that a multipart body gives it, or "".

    Raises:
        HTTPException: 413 too large, 408 too slow, 422 empty, 507 disk full, 400 disconnected or
            damaged.
    """
    max_bytes = settings.max_upload_mb * 1_000_000
    chunks = iter_body(request, max_bytes, settings.upload_idle_seconds)
    boundary = multipart_boundary(request.headers.get("content-type", ""))
    multipart = MultipartFile(chunks, boundary) if boundary else None
    try:
        async with new_file(directory) as path:
            with path.open("xb") as file:
                await _write(chunks if multipart is None else multipart.content(), file)
            if not path.stat().st_size:
                raise HTTPException(422, "The upload is empty (0 bytes). Send a video file.")
    except ClientDisconnect as error:
        raise HTTPException(400, "The client disconnected during the upload.") from error
    return path, multipart.name if multipart else ""


@asynccontextmanager
async def new_file(directory: Path) -> AsyncIterator[Path]:
    """Return a path with a random name; its file is deleted if the block raises.

    Raises:
        HTTPException: 507, the disk is full.
    """
    path = directory / secrets.token_hex(16)
    is_complete = False
    try:
        yield path
        is_complete = True
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HTTPException(507, "The disk of the server is full. Try again later.") from error
    finally:
        if not is_complete:
            path.unlink(missing_ok=True)


async def _write(chunks: AsyncIterator[bytes], file: BinaryIO) -> None:
    """Write in a thread, since writing would block the event loop."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        if len(buffer) >= _WRITE_CHUNK_BYTES:
            await asyncio.to_thread(file.write, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(file.write, bytes(buffer))


def _delete_if_unlocked(directory: Path) -> None:
    """Delete a leftover directory; links and directories of other users are left alone."""
    status = directory.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_own or time.time() - status.st_mtime < MIN_DIR_AGE_SECONDS:
        return
    with _open_directory(directory) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(directory)


@contextmanager
def _open_directory(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
