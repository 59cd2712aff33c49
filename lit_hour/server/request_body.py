"""Read the bodies of requests within limits of size and time; gzip is decompressed.

Entry points: `read_body` and `iter_body`.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

_MIN_BYTES_PER_IDLE_TIME = 1 << 16  # a client that sends less is disconnected
_MAX_DRAIN_BYTES, _MAX_DRAIN_SECONDS = 16 << 20, 2.0
_GZIP_WINDOW_BITS = 31  # the largest window, and the header of gzip
_INFLATE_CHUNK_BYTES = 1 << 20


async def read_body(request: Request, max_bytes: int, idle_seconds: float) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 413 too large, 408 too slow, 415 encoded otherwise, 400 disconnected.
    """
    try:
        return b"".join([chunk async for chunk in iter_body(request, max_bytes, idle_seconds)])
    except ClientDisconnect as error:
        raise HTTPException(400, "The client disconnected during the request.") from error


async def iter_body(request: Request, max_bytes: int, idle_seconds: float) -> AsyncIterator[bytes]:
    """Iterate over the body of a request as it comes, decompressed.

    Args:
        request: its body must not have been read.
        max_bytes: limit on the body, before and after decompression.
        idle_seconds: within which a client has to send something.

    Raises:
        HTTPException: 413 too large, 408 too slow, 415 for an encoding other than gzip, 400 for
            damaged gzip.
        ClientDisconnect: the client disconnected.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise HTTPException(
            415, f"Content-Encoding {encoding[:40]!r} is not supported. Send gzip, or none."
        )
    stream = aiter(request.stream())
    declared_bytes = request.headers.get("content-length", "")
    if declared_bytes.isdecimal() and int(declared_bytes) > max_bytes:
        await _drain(stream)
        raise _too_large(max_bytes)
    inflater = _Inflater() if encoding == "gzip" else None
    num_bytes = 0
    async for chunk in _iter_received(stream, max_bytes, idle_seconds):
        for piece in [chunk] if inflater is None else inflater.inflate(chunk):
            num_bytes += len(piece)
            if num_bytes > max_bytes:
                await _drain(stream)
                raise _too_large(max_bytes)
            yield piece
    if inflater is not None and not inflater.is_complete:
        raise _damaged_gzip()


async def _iter_received(
    stream: AsyncIterator[bytes], max_bytes: int, idle_seconds: float
) -> AsyncIterator[bytes]:
    """Iterate over the chunks that the client sends, within the limits."""
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
            raise _too_large(max_bytes)
        if num_bytes - last_num_bytes >= _MIN_BYTES_PER_IDLE_TIME:
            last_num_bytes, last_time = num_bytes, time.monotonic()
        yield chunk


class _Inflater:
    """Decompresses gzip in pieces of bounded size; several members may follow each other."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_WINDOW_BITS)

    @property
    def is_complete(self) -> bool:
        """Return whether the last member has ended."""
        return self._inflate.eof

    def inflate(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk decompresses to.

        Raises:
            HTTPException: 400, it is not gzip.
        """
        while chunk:
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(_GZIP_WINDOW_BITS)
            try:
                piece = self._inflate.decompress(chunk, _INFLATE_CHUNK_BYTES)
            except zlib.error as error:
                raise _damaged_gzip() from error
            if piece:
                yield piece
            chunk = self._inflate.unconsumed_tail or self._inflate.unused_data


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Read a little more of a rejected body: a client that is still sending may miss the reason."""
    num_bytes = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_MAX_DRAIN_SECONDS):
            async for chunk in stream:
                num_bytes += len(chunk)
                if num_bytes > _MAX_DRAIN_BYTES:
                    return


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413, f"The body is larger than {max_bytes / 1e6:g} MB, the limit of this server."
    )


def _damaged_gzip() -> HTTPException:
    return HTTPException(400, "The body is not valid gzip. Send it again, or without compression.")
