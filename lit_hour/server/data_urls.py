"""Data URLs in the body of a request: taken out before the JSON is parsed, then decoded.

So the JSON is small, whatever it encloses, and a client cannot fill the memory with a structure.
Entry points: `detach_data_urls` and `decode_data_url`.
"""

from __future__ import annotations

import binascii
import re
import secrets

from fastapi import HTTPException

from lit_hour.server.http_errors import FieldError

MAX_JSON_BYTES = 1_000_000  # without the data URLs
_DATA_URL = re.compile(rb'"(data:[^",]{0,200};base64,[^"\\]*(?:\\[/nrt][^"\\]*)*)"')
_MEDIA_TYPE = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w.+-]+=[\w.+-]+)*;base64")
_ESCAPED = re.compile(rb"\\[nrt]|\s")
_KINDS = ("video", "image")


def detach_data_urls(body: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Replace the data URLs in the body of a request by short names.

    Args:
        body: JSON.

    Returns:
        The body with a name in place of each data URL, and the data URLs by name.

    Raises:
        HTTPException: 413, the rest of the body is larger than `MAX_JSON_BYTES`.
    """
    prefix = f"data:{secrets.token_hex(16)}"
    urls: dict[str, bytes] = {}

    def detach(match: re.Match[bytes]) -> bytes:
        name = f"{prefix}-{len(urls)}"
        urls[name] = match[1]
        return f'"{name}"'.encode()

    rest = _DATA_URL.sub(detach, body)
    if len(rest) > MAX_JSON_BYTES:
        raise HTTPException(
            413,
            f"The body is larger than {MAX_JSON_BYTES / 1e6:g} MB without its base64 data URLs, the"
            " limit of this server.",
        )
    return rest, urls


def decode_data_url(url: bytes, kind: str, field: str) -> bytes:
    """Decode a data URL.

    Args:
        url: as it was in the JSON.
        kind: "video" or "image".
        field: that it was the value of, for error messages.

    Raises:
        FieldError: it is of another type, empty, or not base64.
    """
    header, _, payload = url.partition(b",")
    match = _MEDIA_TYPE.fullmatch(header.replace(b"\\/", b"/").decode(errors="replace"))
    if match is None:
        raise FieldError(field, f"{field} must be a data URL such as data:{kind}/...;base64,...")
    media_type = (match[1] or "application/octet-stream").lower()
    if media_type != "application/octet-stream" and media_type.partition("/")[0] not in _KINDS:
        raise FieldError(field, f"{field} is a data URL of {media_type}. It must be of {kind}/....")
    payload = payload.replace(b"\\/", b"/")
    if b"\\" in payload or any(blank in payload for blank in b"\n\r\t "):
        payload = _ESCAPED.sub(b"", payload)
    try:
        content = binascii.a2b_base64(payload, strict_mode=True)
    except binascii.Error as error:
        raise FieldError(field, f"{field} is not valid base64. Encode the file again.") from error
    if not content:
        raise FieldError(field, f"{field} is empty (0 bytes). Send a file.")
    return content
