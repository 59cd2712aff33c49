"""The URL of a file in, its bytes out: with a time-out, further tries, and what a broken connection left continued.

Public and pre-signed addresses only: the query of a folder's URL is kept for each file, and never shown in a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

from lit_hour.errors import ConfigError, ShardError

SCHEMES = ("http", "https", "s3")
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}  # what a server says when a later try may do
BLOCK_BYTES = 2**20

Result = TypeVar("Result")


def is_url(place: str) -> bool:
    """Whether a place is a URL and no path."""
    return "://" in place


def join_url(folder: str, name: str) -> str:
    """The URL of a file in a folder, with the folder's query."""
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def redact(url: str) -> str:
    """A URL as a message may show it: without user, query and fragment, where secrets stand."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True)
class HTTPClient:
    """How files are fetched.

    Attributes:
        s3_endpoint: `s3://bucket/path` is fetched from `s3_endpoint/bucket/path`.
        timeout_seconds: how long a server may say nothing.
        num_tries: in a row without a single new byte, until it is given up.
        pause_seconds: before the second of them; it doubles each time.
    """

    s3_endpoint: str
    timeout_seconds: float = 30.0
    max_attempts: int = 6
    backoff_seconds: float = 0.5

    def resolve(self, url: str) -> str:
        """Where a URL is fetched from.

        Raises:
            ConfigError: it is none of http://, https:// and s3://, or `data.s3_endpoint` is none of the first two.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise ConfigError(
                f"{redact(url)} is no URL to fetch from: write http://..., https://... or s3://BUCKET/PATH"
            )
        if parts.scheme != "s3":
            return url
        endpoint = urlsplit(self.s3_endpoint)
        if endpoint.scheme not in ("http", "https") or not endpoint.netloc:
            raise ConfigError(
                f"data.s3_endpoint={self.s3_endpoint} has to be the http:// or https:// URL of a server"
            )
        path = f"{endpoint.path.rstrip('/')}/{parts.netloc}{parts.path}"
        return urlunsplit((endpoint.scheme, endpoint.netloc, path, parts.query, ""))

    def read(self, url: str) -> bytes:
        """The content of a small file.

        Raises:
            ShardError: it is not there, or the server does not answer.
        """

        def fetch() -> bytes:
            with self._open(url, 0) as response:
                return response.read()

        return self._retry(url, fetch)

    def download(self, url: str, path: Path, num_bytes: int) -> None:
        """Fetch a file of so many bytes, or what `path` lacks of it.

        Raises:
            ShardError: it is not there, has another size, the server does not answer, or the disk cannot be written.
        """
        path.touch()
        while path.stat().st_size < num_bytes:
            self._retry(url, lambda: self._fetch_more(url, path, num_bytes))

    def _fetch_more(self, url: str, path: Path, num_bytes: int) -> None:
        """Fetch at least one more byte; a connection that breaks after that is no fault yet."""
        num_before = path.stat().st_size
        with self._open(url, num_before) as response:
            start = num_before if response.status == 206 else 0  # a server may not know ranges
            length = response.headers.get("Content-Length")
            if length is not None and start + int(length) != num_bytes:
                raise ShardError(
                    f"{redact(url)} has {start + int(length)} bytes, its index says {num_bytes}: upload the shard again"
                )
            _write(_blocks(response), path, start)
        if path.stat().st_size <= num_before:
            raise ConnectionError(
                f"the connection broke off, or was silent for {self.timeout_seconds:g} s"
            )

    def _open(self, url: str, start: int) -> HTTPResponse:
        request = Request(self.resolve(url), headers={"Range": f"bytes={start}-"} if start else {})
        return urlopen(request, timeout=self.timeout_seconds)

    def _retry(self, url: str, fetch: Callable[[], Result]) -> Result:
        """Try until it works, with longer and longer pauses, as long as the fault is one that may pass."""
        pause_seconds = self.backoff_seconds
        for tries_left in range(self.max_attempts - 1, -1, -1):
            try:
                return fetch()
            except (OSError, HTTPException) as error:
                if not tries_left or not _is_transient(error):
                    raise ShardError(
                        f"{redact(url)} cannot be fetched: {_reason(error)}"
                    ) from error
            time.sleep(pause_seconds)
            pause_seconds *= 2
        raise AssertionError("there is at least one try")


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """What a server sends, until it has sent all or the connection breaks: who counts the bytes knows which."""
    with suppress(OSError, HTTPException):
        while block := response.read1(BLOCK_BYTES):
            yield block


def _write(blocks: Iterator[bytes], path: Path, start: int) -> None:
    """Write what is fetched behind the first `start` bytes of a file.

    Raises:
        ShardError: the disk cannot be written.
    """
    try:
        with path.open("r+b") as stream:
            stream.truncate(start)
            stream.seek(start)
            stream.writelines(blocks)
    except OSError as error:
        advice = "make room, or set data.cache_folder or data.cache_gb"
        raise ShardError(f"{path} cannot be written: {error.strerror}: {advice}") from error


def _is_transient(error: OSError | HTTPException) -> bool:
    return not isinstance(error, HTTPError) or error.code in TRANSIENT_STATUS


def _reason(error: OSError | HTTPException) -> str:
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error or type(error).__name__)
