"""Read the file of a multipart/form-data upload while it comes.

Entry points: `multipart_boundary`, then `MultipartFile`. Other parts of the body are dropped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.message import Message
from email.parser import HeaderParser

from fastapi import HTTPException

MAX_HEADER_BYTES = 16_384  # of one part
MAX_FIELD_BYTES = 65_536  # of all parts before the file


def multipart_boundary(content_type: str) -> bytes | None:
    """Return the boundary of a multipart body; None if the body is of another type.

    Raises:
        HTTPException: 400, the boundary is missing or invalid.
    """
    header = _parse_header(content_type)
    if header.get_content_type() != "multipart/form-data":
        return None
    boundary = header.get_boundary("")
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise HTTPException(400, "The multipart body has no valid boundary. Send one in its type.")
    return boundary.encode()


class MultipartFile:
    """The file in a multipart body: the first part with a file name.

    Attributes:
        name: that the client gave it, known once the content is read.
    """

    def __init__(self, chunks: AsyncIterator[bytes], boundary: bytes) -> None:
        self.name = ""
        self._chunks, self._delimiter = chunks, b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # the first delimiter has no line break before it

    async def content(self) -> AsyncIterator[bytes]:
        """Iterate over the content of the file.

        Raises:
            HTTPException: 400, the body is damaged or has no file.
        """
        num_skipped = 0
        async for chunk in self._until_delimiter():
            num_skipped += len(chunk)
        while num_skipped <= MAX_FIELD_BYTES:
            header = await self._read_header()
            self.name = header.get_filename("")
            if self.name:
                async for chunk in self._until_delimiter():
                    yield chunk
                async for _ in self._chunks:
                    pass  # the rest of the body, within its limits
                return
            async for chunk in self._until_delimiter():
                num_skipped += len(chunk)
        raise HTTPException(400, "The multipart body has no file. Send it as its first part.")

    async def _until_delimiter(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes before the next delimiter, and drop it."""
        num_kept = len(self._delimiter) - 1  # may be the beginning of a delimiter
        while (end := self._buffer.find(self._delimiter)) < 0:
            if len(self._buffer) > num_kept:
                yield bytes(self._buffer[:-num_kept])
                del self._buffer[:-num_kept]
            await self._receive()
        if end:
            yield bytes(self._buffer[:end])
        del self._buffer[: end + len(self._delimiter)]

    async def _read_header(self) -> Message:
        """Return the header of the part that begins here."""
        while len(self._buffer) < 2:
            await self._receive()
        if self._buffer.startswith(b"--"):
            raise HTTPException(400, "The multipart body has no file. Send it as its first part.")
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise _damaged()
            await self._receive()
        text = bytes(self._buffer[:end]).decode(errors="replace").lstrip("\r\n")
        del self._buffer[: end + 4]
        return HeaderParser().parsestr(text)

    async def _receive(self) -> None:
        chunk = await anext(self._chunks, None)
        if chunk is None:
            raise _damaged()
        self._buffer += chunk


def _parse_header(content_type: str) -> Message:
    message = Message()
    message["Content-Type"] = content_type.replace("\r", "").replace("\n", "")
    return message


def _damaged() -> HTTPException:
    return HTTPException(400, "The multipart body is cut off or damaged. Send it again.")
