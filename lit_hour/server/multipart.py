"""Read the file of a multipart/form-data upload while it comes.

Entry points: `multipart_boundary`, then `MultipartFile`. Other parts of the body are dropped.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from email.message import Message

from fastapi import HTTPException
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError

MAX_HEADER_BYTES = 16_384  # of one header of a part
MAX_FIELD_BYTES = 65_536  # of all parts before the file

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # damage is the client's to read


def multipart_boundary(content_type: str) -> bytes | None:
    """Return the boundary of a multipart body; None if the body is of another type.

    Raises:
        HTTPException: 400, the boundary is missing or invalid.
    """
    header = _parse_header("Content-Type", content_type)
    if header.get_content_type() != "multipart/form-data":
        return None
    try:
        boundary = header.get_boundary("")
    except ValueError:  # of an encoding that Python cannot read it in
        boundary = ""
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
        self._chunks = chunks
        self._field, self._value = bytearray(), bytearray()  # of the header that is read
        self._pieces: list[bytes] = []
        self._num_skipped = 0
        self._has_ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": self._read_header_field,
                "on_header_value": self._read_header_value,
                "on_header_end": self._finish_header,
                "on_part_data": self._read_data,
                "on_part_end": self._finish_part,
                "on_end": self._finish_body,
            },
            max_header_size=MAX_HEADER_BYTES,
        )
        # text before the first delimiter is legal: it is read as one more part
        self._parser.write(b"--" + boundary + b"\r\n\r\n\r\n")

    async def content(self) -> AsyncIterator[bytes]:
        """Iterate over the content of the file.

        Raises:
            HTTPException: 400, the body is damaged or has no file.
        """
        async for chunk in self._chunks:
            if self._has_ended:
                continue  # the rest of the body, within its limits
            try:
                self._parser.write(chunk)
            except MultipartParseError as error:
                if not self._has_ended:
                    raise _damaged() from error
            for piece in self._pieces:
                yield piece
            self._pieces.clear()
        if not self._has_ended:
            raise _damaged()

    def _read_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _read_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _finish_header(self) -> None:
        if self._field.lower() == b"content-disposition" and not self._has_ended:
            disposition = self._value.decode(errors="replace")
            try:
                self.name = _parse_header("Content-Disposition", disposition).get_filename("")
            except ValueError as error:  # of an encoding that Python cannot read it in
                raise _damaged() from error
        self._field.clear()
        self._value.clear()

    def _read_data(self, data: bytes, start: int, end: int) -> None:
        if self._has_ended:
            return
        if self.name:
            self._pieces.append(data[start:end])
            return
        self._num_skipped += end - start
        if self._num_skipped > MAX_FIELD_BYTES:
            raise _no_file()

    def _finish_part(self) -> None:
        self._has_ended = bool(self.name)

    def _finish_body(self) -> None:
        if not self._has_ended:
            raise _no_file()


def _parse_header(field: str, value: str) -> Message:
    message = Message()
    message[field] = value.replace("\r", "").replace("\n", "")
    return message


def _no_file() -> HTTPException:
    return HTTPException(400, "The multipart body has no file. Send it as its first part.")


def _damaged() -> HTTPException:
    return HTTPException(400, "The multipart body is cut off or damaged. Send it again.")
