"""HTTP client for shards with timeouts, retries with backoff, and resumed downloads (`HTTPClient`).

Supports public and pre-signed URLs. The query string of a folder's URL is appended to the URL of
each of its files, and is never shown in messages.
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
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}  # worth a retry
BLOCK_BYTES = 2**20

Result = TypeVar("Result")


def is_url(location: str) -> bool:
    """Return whether a location is a URL rather than a path."""
    return "://" in location


def join_url(folder: str, name: str) -> str:
    """Append a file name to a folder's URL, keeping the folder's query string."""
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def redact(url: str) -> str:
    """Remove the parts of a URL that may hold secrets: user, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True)
class HTTPClient:
    """HTTP client with retries and exponential backoff.

    Attributes:
        s3_endpoint: base URL for `s3://` URLs; `s3://bucket/path` is fetched from
            `s3_endpoint/bucket/path`.
        timeout_seconds: socket timeout, for the connection and for each read.
        max_attempts: attempts in a row without a single new byte, before an error is raised.
        backoff_seconds: pause before the second attempt; doubles with each further one.
    """

    s3_endpoint: str
    timeout_seconds: float = 30.0
    max_attempts: int = 6
    backoff_seconds: float = 0.5

    def resolve(self, url: str) -> str:
        """Translate a URL to the http:// or https:// URL to request.

        Raises:
            ConfigError: the URL is not http://, https:// or s3://, or `data.s3_endpoint` is not an
                http:// or https:// URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise ConfigError(
                f"{redact(url)} is not a supported URL."
                " Use http://..., https://... or s3://BUCKET/PATH"
            )
        if parts.scheme != "s3":
            return url
        endpoint = urlsplit(self.s3_endpoint)
        if endpoint.scheme not in ("http", "https") or not endpoint.netloc:
            raise ConfigError(
                f"data.s3_endpoint={self.s3_endpoint} must be an http:// or https:// URL"
            )
        path = f"{endpoint.path.rstrip('/')}/{parts.netloc}{parts.path}"
        return urlunsplit((endpoint.scheme, endpoint.netloc, path, parts.query, ""))

    def read(self, url: str) -> bytes:
        """Return the content of a small file.

        Raises:
            ShardError: the file is missing, or the server does not respond.
        """

        def fetch() -> bytes:
            with self._open(url, 0) as response:
                return response.read()

        return self._retry(url, fetch)

    def download(self, url: str, path: Path, num_bytes: int) -> None:
        """Download a file of `num_bytes` bytes to `path`, resuming a partial download.

        Raises:
            ShardError: the file is missing or has a different size, the server does not respond, or
                the disk cannot be written.
        """
        path.touch()
        while path.stat().st_size < num_bytes:
            self._retry(url, lambda: self._fetch_more(url, path, num_bytes))

    def _fetch_more(self, url: str, path: Path, num_bytes: int) -> None:
        """Download at least one more byte; a connection that breaks after that is not an error."""
        num_before = path.stat().st_size
        with self._open(url, num_before) as response:
            start = num_before if response.status == 206 else 0  # else ranges are unsupported
            length = response.headers.get("Content-Length")
            if length is not None and start + int(length) != num_bytes:
                raise ShardError(
                    f"{redact(url)} has {start + int(length)} bytes, but its index records"
                    f" {num_bytes}. Upload the shard again"
                )
            _write(_blocks(response), path, start)
        if path.stat().st_size <= num_before:
            raise ConnectionError(
                f"the connection broke, or sent nothing for {self.timeout_seconds:g} s"
            )

    def _open(self, url: str, start: int) -> HTTPResponse:
        request = Request(self.resolve(url), headers={"Range": f"bytes={start}-"} if start else {})
        return urlopen(request, timeout=self.timeout_seconds)

    def _retry(self, url: str, fetch: Callable[[], Result]) -> Result:
        """Call `fetch` until it succeeds, with exponential backoff; retry transient errors only."""
        pause_seconds = self.backoff_seconds
        for attempts_left in range(self.max_attempts - 1, -1, -1):
            try:
                return fetch()
            except (OSError, HTTPException) as error:
                if not attempts_left or not _is_transient(error):
                    raise ShardError(
                        f"{redact(url)} cannot be fetched: {_reason(error)}"
                    ) from error
            time.sleep(pause_seconds)
            pause_seconds *= 2
        raise AssertionError("max_attempts must be at least 1")


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield a response's bytes in blocks; end silently when the connection breaks.

    The caller counts the bytes to tell the two apart.
    """
    with suppress(OSError, HTTPException):
        while block := response.read1(BLOCK_BYTES):
            yield block


def _write(blocks: Iterator[bytes], path: Path, start: int) -> None:
    """Truncate a file to `start` bytes and append the blocks to it.

    Raises:
        ShardError: the disk cannot be written.
    """
    try:
        with path.open("r+b") as stream:
            stream.truncate(start)
            stream.seek(start)
            stream.writelines(blocks)
    except OSError as error:
        advice = "Free disk space, or set data.cache_folder or data.cache_gb"
        raise ShardError(f"{path} cannot be written ({error.strerror}). {advice}") from error


def _is_transient(error: OSError | HTTPException) -> bool:
    return not isinstance(error, HTTPError) or error.code in TRANSIENT_STATUS


def _reason(error: OSError | HTTPException) -> str:
    if isinstance(error, HTTPError):
        return f"the server returned {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error or type(error).__name__)
