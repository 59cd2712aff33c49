"""Download a file from an http(s) URL within limits of size, time and redirects.

No address but a public one is connected to, unless the limits allow it. The address is checked
where the socket is made, so after name resolution, for each redirect, and for the very address that
is connected to: a name that resolves to another address the next time (DNS rebinding) gains
nothing. Entry point: `download`.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import aiohttp

from lit_hour.errors import DownloadError
from lit_hour.io.urls import redact

MAX_REDIRECTS = 5
MAX_URL_CHARACTERS = 8192
MAX_SHOWN_CHARACTERS = 200
CHUNK_BYTES = 1 << 20
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "lit_hour"}  # a small file stays small
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class DownloadLimits:
    """Limits of one download.

    Attributes:
        max_bytes: of the file.
        timeout_seconds: for all of it, redirects included.
        allow_private: connect to loopback, private and link-local addresses too.
    """

    max_bytes: int
    timeout_seconds: float
    allow_private: bool = False


async def download(text: str, path: Path, limits: DownloadLimits) -> None:
    """Download the file of a URL; what was written before an error stays.

    Args:
        text: the URL.
        path: of the file to write.
        limits: on size, time and addresses.

    Raises:
        DownloadError: the URL is invalid, its address is not public, or it gives no file within the
            limits.
    """
    url = _parse(text)
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            for _ in range(MAX_REDIRECTS + 1):
                target = await _fetch(url, path, limits)
                if target is None:
                    return
                url = _parse(target)
    except TimeoutError as error:
        raise DownloadError(
            f"{_show(url)} was not read within {limits.timeout_seconds:g} s. Give a smaller file."
        ) from error
    raise DownloadError(f"{_show(_parse(text))} redirects more than {MAX_REDIRECTS} times.")


async def _fetch(url: str, path: Path, limits: DownloadLimits) -> str | None:
    """Write the file of a URL, or return where it redirects to."""

    def make_socket(address: Any) -> socket.socket:
        family, kind, protocol, _, location = address
        if not limits.allow_private and not is_public_address(location[0]):
            raise DownloadError(
                f"{_show(url)} is at an address that is not public. Give one that is."
            )
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(socket_factory=make_socket, force_close=True)
    session = aiohttp.ClientSession(
        connector=connector,
        headers=HEADERS,
        timeout=aiohttp.ClientTimeout(total=None),  # the caller has one for all redirects
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )
    try:
        async with session, session.get(url, allow_redirects=False) as response:
            if response.status in REDIRECT_STATUSES and "Location" in response.headers:
                return urljoin(url, response.headers["Location"])
            if response.status != 200:
                raise DownloadError(f"{_show(url)} answers with status {response.status}.")
            await _save(response, url, path, limits.max_bytes)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error, DownloadError) or getattr(error, "errno", None) in _DISK_FULL:
            raise
        raise DownloadError(f"{_show(url)} cannot be read ({type(error).__name__}).") from error
    return None


async def _save(response: aiohttp.ClientResponse, url: str, path: Path, max_bytes: int) -> None:
    too_large = DownloadError(
        f"{_show(url)} is larger than {max_bytes / 1e6:g} MB. Give a smaller file."
    )
    if (response.content_length or 0) > max_bytes:
        raise too_large
    num_bytes = 0
    with path.open("xb") as file:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise too_large
            await asyncio.to_thread(file.write, chunk)
    if not num_bytes:
        raise DownloadError(f"{_show(url)} is empty (0 bytes).")


def is_public_address(text: str) -> bool:
    """Return whether an IP address is reachable for anyone: not loopback, private or link-local.

    Of an IPv6 address that stands for an IPv4 one, both have to be.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    if address.is_site_local:  # fec0::/10, private until 2004, and still routed in some networks
        return False
    inner = (address.ipv4_mapped, address.sixtofour)
    return all(is_public_address(str(one)) for one in inner if one is not None)


def _parse(text: str) -> str:
    """Check the form of a URL, and return it without its fragment."""
    try:
        parts = urlsplit(text)
        is_valid = bool(parts.hostname) and parts.port != 0 and len(text) <= MAX_URL_CHARACTERS
    except ValueError:
        is_valid = False
    if not is_valid or parts.scheme not in ("http", "https"):
        raise DownloadError("The URL is not a valid http(s) URL. Give one with a host.")
    if "@" in parts.netloc:
        raise DownloadError(f"{_show(text)} has a user name. Give a URL without one.")
    return urldefrag(text).url


def _show(url: str) -> str:
    return redact(url)[:MAX_SHOWN_CHARACTERS]
