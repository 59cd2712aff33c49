"""Download files by HTTP or from S3, with timeouts, retries and resumed downloads.

Addresses must be public or pre-signed. The query of a folder's URL is kept for each of its files
and never shown in a message.
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
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}  # a later attempt may succeed
BLOCK_BYTES = 2**20

Result = TypeVar("Result")


def join_url(folder: str, name: str) -> str:
    """Return the URL of a file in a folder, with the folder's query."""
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def redact(url: str) -> str:
    """Return a URL without user, query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True)
class HTTPClient:
    """HTTP and S3 downloads with timeouts and retries.

    Attributes:
        s3_endpoint: `s3://bucket/path` is downloaded from `s3_endpoint/bucket/path`.
        timeout_seconds: without any data from the server.
        max_attempts: attempts in a row that bring no new byte.
        backoff_seconds: pause before the second of them; it doubles each time.
    """

    s3_endpoint: str
    timeout_seconds: float = 30.0
    max_attempts: int = 6
    backoff_seconds: float = 0.5

    def resolve(self, url: str) -> str:
        """Return the address that a URL is downloaded from.

        Raises:
            ConfigError: the URL or `data.s3_endpoint` has an unsupported scheme.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise ConfigError(
                f"{redact(url)} is not a supported URL."
                " Use http://..., https://... or s3://BUCKET/PATH."
            )
        if parts.scheme != "s3":
            return url
        endpoint = urlsplit(self.s3_endpoint)
        if endpoint.scheme not in ("http", "https") or not endpoint.netloc:
            raise ConfigError(
                f"data.s3_endpoint={self.s3_endpoint} must be the http:// or https:// URL of a "
                "server."
            )
        path = f"{endpoint.path.rstrip('/')}/{parts.netloc}{parts.path}"
        return urlunsplit((endpoint.scheme, endpoint.netloc, path, parts.query, ""))

    def read(self, url: str) -> bytes:
        """Return the content of a small file.

        Raises:
            ShardError: it is missing, or the server does not answer.
        """

        def fetch() -> bytes:
            with self._open(url, 0) as response:
                return response.read()

        return self._retry(url, fetch)

    def download(self, url: str, path: Path, num_bytes: int) -> None:
        """Download a file of this size, or the part of it that `path` lacks.

        Raises:
            ShardError: the file is missing or has another size, the server does not answer, or the
                disk cannot be written.
        """
        path.touch()
        while path.stat().st_size < num_bytes:
            self._retry(url, lambda: self._fetch_more(url, path, num_bytes))

    def _fetch_more(self, url: str, path: Path, num_bytes: int) -> None:
        """Download at least one more byte.

        A connection that breaks after that is not yet an error.
        """
        num_before = path.stat().st_size
        with self._open(url, num_before) as response:
            start = num_before if response.status == 206 else 0  # a server may ignore ranges
            length = response.headers.get("Content-Length")
            if length is not None and start + int(length) != num_bytes:
                raise ShardError(
                    f"{redact(url)} has {start + int(length)} bytes, but {num_bytes} by its index."
                    " Upload the shard again."
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
        """Repeat a request with exponential backoff while it fails with a transient error."""
        backoff_seconds = self.backoff_seconds
        for attempts_left in range(self.max_attempts - 1, -1, -1):
            try:
                return fetch()
            except (OSError, HTTPException) as error:
                if not attempts_left or not _is_transient(error):
                    raise ShardError(f"Cannot download {redact(url)}: {_reason(error)}.") from error
            time.sleep(backoff_seconds)
            backoff_seconds *= 2
        raise AssertionError("max_attempts is at least 1")


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the response until it ends or the connection breaks; the caller counts the bytes."""
    with suppress(OSError, HTTPException):
        while block := response.read1(BLOCK_BYTES):
            yield block


def _write(blocks: Iterator[bytes], path: Path, start: int) -> None:
    """Write blocks to a file from byte `start` on.

    Raises:
        ShardError: the disk cannot be written.
    """
    try:
        with path.open("r+b") as stream:
            stream.truncate(start)
            stream.seek(start)
            stream.writelines(blocks)
    except OSError as error:
        raise ShardError(
            f"Cannot write {path}: {error.strerror}. Free disk space,"
            " or set data.cache_folder or data.cache_gb."
        ) from error


def _is_transient(error: OSError | HTTPException) -> bool:
    return not isinstance(error, HTTPError) or error.code in TRANSIENT_STATUS


def _reason(error: OSError | HTTPException) -> str:
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error or type(error).__name__)
