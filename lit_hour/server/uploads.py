"""Receive request bodies within limits of size and time, into a temporary directory.

Entry points: `receive_upload`, `read_body` and `LockedTempDir`.
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
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from tempfile import gettempdir, mkdtemp
from typing import BinaryIO

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import ServerError

DIR_PREFIX = "lit_hour_serve_"
MIN_DIR_AGE_SECONDS = 60.0  # a younger directory may not be locked yet by the server that makes it
MAX_NAME_LENGTH = 120
_WRITE_CHUNK_BYTES = 1 << 20
_MIN_BYTES_PER_IDLE_TIME = 1 << 16  # a client that sends less is disconnected
_MAX_DRAIN_BYTES, _MAX_DRAIN_SECONDS = 16 << 20, 2.0


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


async def receive_upload(request: Request, directory: Path, settings: ServerConfig) -> Path:
    """Write the body of a request to a file with a random name; an incomplete file is deleted.

    Raises:
        HTTPException: 413 too large, 408 too slow, 422 empty, 507 disk full, 400 disconnected.
    """
    path = directory / secrets.token_hex(16)
    max_bytes = settings.max_upload_mb * 1_000_000
    is_complete = False
    try:
        with path.open("xb") as file:
            await _write(_iter_body(request, max_bytes, settings.upload_idle_seconds), file)
        if not path.stat().st_size:
            raise HTTPException(422, "The upload is empty (0 bytes). Send a video file as body.")
        is_complete = True
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HTTPException(507, "The disk of the server is full. Try again later.") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "The client disconnected during the upload.") from error
    finally:
        if not is_complete:
            path.unlink(missing_ok=True)
    return path


async def read_body(request: Request, max_bytes: int, idle_seconds: float) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 413 too large, 408 too slow, 400 disconnected.
    """
    try:
        return b"".join([chunk async for chunk in _iter_body(request, max_bytes, idle_seconds)])
    except ClientDisconnect as error:
        raise HTTPException(400, "The client disconnected during the request.") from error


async def _iter_body(request: Request, max_bytes: int, idle_seconds: float) -> AsyncIterator[bytes]:
    too_large = HTTPException(
        413, f"The body is larger than {max_bytes / 1e6:g} MB, the limit of this server."
    )
    stream = aiter(request.stream())
    declared_bytes = request.headers.get("content-length", "")
    if declared_bytes.isdecimal() and int(declared_bytes) > max_bytes:
        await _drain(stream)
        raise too_large
    num_bytes = last_num_bytes = 0
    last_time = time.monotonic()
    while True:
        try:
            timeout_seconds = last_time + idle_seconds - time.monotonic()
            chunk = await asyncio.wait_for(anext(stream), timeout_seconds)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise HTTPException(
                408, f"The client sent too little within {idle_seconds:g} s."
            ) from error
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            await _drain(stream)
            raise too_large
        if num_bytes - last_num_bytes >= _MIN_BYTES_PER_IDLE_TIME:
            last_num_bytes, last_time = num_bytes, time.monotonic()
        yield chunk


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Read a little more of a rejected body: a client that is still sending may miss the reason."""
    num_bytes = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_MAX_DRAIN_SECONDS):
            async for chunk in stream:
                num_bytes += len(chunk)
                if num_bytes > _MAX_DRAIN_BYTES:
                    return


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
