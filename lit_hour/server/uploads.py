"""A folder for as long as a server runs: gone when it ends, or, if it was killed, when the next one starts.

The body of a request -> a file of a size that may be, or nothing: half an upload leaves nothing behind."""

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

from fastapi import Request
from starlette.requests import ClientDisconnect

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import ServerError
from lit_hour.server.http_errors import HTTPRefusal

PREFIX = "lit_hour_serve_"
YOUNG_SECONDS = 60.0  # a folder this new may be one that is made at this moment, and not held yet


class LockedTempDir:
    """A new folder that only this user may read."""

    def __init__(self, parent: str, setting: str) -> None:
        """Delete what servers that were killed have left in a parent folder, and make a new one there.

        Args:
            parent: made if it is not there; empty for the system's folder for temporary files.
            setting: that named the parent, for the error.

        Raises:
            ServerError: no folder can be made there.
        """
        try:
            place = Path(parent or gettempdir())
            place.mkdir(parents=True, exist_ok=True)
            for left_over in place.glob(f"{PREFIX}*"):
                with suppress(
                    FileNotFoundError
                ):  # another server that starts may delete it as well
                    _delete_unless_held(left_over)
            self.path = Path(mkdtemp(prefix=PREFIX, dir=place))
            self._descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ServerError(f"{setting}={parent} cannot be used: {error.strerror}") from error
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Delete the folder with all that is in it."""
        shutil.rmtree(self.path)
        os.close(self._descriptor)


def _delete_unless_held(folder: Path) -> None:
    """A link is not followed, and what belongs to somebody else stays."""
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_ours or time.time() - status.st_mtime < YOUNG_SECONDS:
        return
    with _opened(folder) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


MAX_NAME_LENGTH = 120
_WRITE_BYTES = 1 << 20
_LEAST_BYTES = 1 << 16  # that have to come in the idle time: who drips takes the place of others
_LINGER_BYTES, _LINGER_SECONDS = 16 << 20, 2.0


def display_name(given: str) -> str:
    """What to call an upload whose name a client gave; no path is ever made of it."""
    last = PurePath(given.replace("\\", "/")).name
    return (
        "".join(character for character in last if character.isprintable())[:MAX_NAME_LENGTH]
        or "video"
    )


async def receive_upload(request: Request, folder: Path, settings: ServerConfig) -> Path:
    """Write the body to a file under a name of our own.

    Raises:
        RefusedError: 413 too large, 408 too little came for too long, 422 empty, 507 no room on the disk, 400 the client left.
    """
    path = folder / secrets.token_hex(16)
    is_whole = False
    try:
        with path.open("xb") as file:
            await _write(_body(request, settings), file)
        if not path.stat().st_size:
            raise HTTPRefusal(422, "the upload is empty (0 bytes): send a video file as the body")
        is_whole = True
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HTTPRefusal(
            507, "there is no room for this video on the server's disk: try again later"
        ) from error
    except ClientDisconnect as error:
        raise HTTPRefusal(400, "the upload broke off") from error
    finally:
        if not is_whole:
            path.unlink(missing_ok=True)
    return path


async def read_body(request: Request, max_bytes: int, idle_seconds: float) -> bytes:
    """A body that is small.

    Raises:
        RefusedError: as `receive_file`.
    """
    try:
        return b"".join([piece async for piece in _pieces(request, max_bytes, idle_seconds)])
    except ClientDisconnect as error:
        raise HTTPRefusal(400, "the request broke off") from error


def _body(request: Request, settings: ServerConfig) -> AsyncIterator[bytes]:
    return _pieces(request, settings.max_upload_mb * 1_000_000, settings.upload_idle_seconds)


async def _pieces(request: Request, max_bytes: int, idle_seconds: float) -> AsyncIterator[bytes]:
    too_large = HTTPRefusal(
        413, f"the body is larger than the {max_bytes / 1e6:g} MB that this server takes"
    )
    declared = request.headers.get("content-length", "")
    stream = aiter(request.stream())
    if declared.isdecimal() and int(declared) > max_bytes:
        await _linger(stream)
        raise too_large
    num_bytes = num_bytes_then = 0
    then = time.monotonic()
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream), then + idle_seconds - time.monotonic())
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise HTTPRefusal(
                408, f"too little came for {idle_seconds:g} s, so the body was given up"
            ) from error
        num_bytes += len(piece)
        if num_bytes > max_bytes:
            await _linger(stream)
            raise too_large
        if num_bytes - num_bytes_then >= _LEAST_BYTES:
            num_bytes_then, then = num_bytes, time.monotonic()
        yield piece


async def _linger(stream: AsyncIterator[bytes]) -> None:
    """Take a little more of what is refused: a client that is still sending when we hang up may never read why."""
    num_bytes = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            async for piece in stream:
                num_bytes += len(piece)
                if num_bytes > _LINGER_BYTES:
                    return


async def _write(pieces: AsyncIterator[bytes], file: BinaryIO) -> None:
    """Write away from the event loop, which others wait for."""
    waiting = bytearray()
    async for piece in pieces:
        waiting += piece
        if len(waiting) >= _WRITE_BYTES:
            await asyncio.to_thread(file.write, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(file.write, bytes(waiting))
