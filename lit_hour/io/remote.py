"""Read and download files by HTTP, from S3, Google Cloud Storage or Hugging Face, through fsspec.

Credentials are found as usual for each: environment variables, configuration files, or a role of
the machine. A private part of a URL, its query, is never shown in a message.
"""

from __future__ import annotations

import gzip
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.client import responses
from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import fsspec

from lit_hour.errors import ConfigError, ShardError
from lit_hour.io.urls import is_url, redact

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

SCHEMES = ("http", "https", "s3", "gs", "gcs", "hf", "memory")
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}  # a later attempt may succeed
MAX_BLOCK_BYTES, MIN_BLOCK_BYTES = 2**24, 2**12
READ_AHEAD_BYTES = 2**20
# Errors of the libraries behind fsspec that are not OSError, if they have been imported.
LIBRARY_ERRORS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("httpx", "HTTPError"),
)

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteStore:
    """Reads with timeouts and retries. It is picklable: connections belong to a process.

    Attributes:
        s3_endpoint: server of s3:// URLs; empty for the usual one.
        timeout_seconds: without any data from the server.
        max_attempts: attempts in a row that bring no new byte.
        backoff_seconds: pause before the second of them; it doubles each time.
    """

    s3_endpoint: str = ""
    timeout_seconds: float = 30.0
    max_attempts: int = 6
    backoff_seconds: float = 0.5

    def read(self, url: str) -> bytes:
        """Return the content of a small file.

        Raises:
            ShardError: it is missing, or the server does not answer.
            ConfigError: the URL has an unsupported scheme, or its library is not installed.
        """
        return self._retry(url, lambda: self._open(url).cat_file(url))

    def read_range(self, url: str, start: int, end: int, num_bytes: int) -> bytes:
        """Return the bytes of a file from `start` to before `end`.

        Args:
            url: of the file.
            start: first byte.
            end: byte after the last.
            num_bytes: size of the file, to recognize a server that ignores ranges.

        Raises:
            ShardError, ConfigError: as `read`.
        """
        return self._retry(url, lambda: self._read_range(url, start, end, num_bytes))

    def open(self, url: str) -> BinaryIO:
        """Open a file for reading anywhere in it; the bytes that are read are fetched as ranges.

        Reading raises the errors of `read_range`.

        Raises:
            ShardError, ConfigError: as `num_bytes`.
        """
        return BufferedReader(_RemoteFile(self, url), READ_AHEAD_BYTES)

    def num_bytes(self, url: str) -> int:
        """Return the size of a file.

        Raises:
            ShardError: it is missing, or the server does not say its size.
            ConfigError: as `read`.
        """
        size = self._retry(url, lambda: self._open(url).info(url).get("size"))
        if size is None:
            raise ShardError(
                f"The server does not say the size of {redact(url)}. Download it, and give its"
                " path."
            )
        return int(size)

    def glob(self, url: str) -> list[str]:
        """Return the URLs that a pattern with `*` stands for, sorted.

        Raises:
            ShardError, ConfigError: as `read`.
        """
        files = self._open(url)
        names = self._retry(url, lambda: files.glob(url))
        scheme = urlsplit(url).scheme
        return sorted(name if is_url(name) else f"{scheme}://{name.lstrip('/')}" for name in names)

    def download(self, url: str, path: Path, num_bytes: int) -> None:
        """Download a file of this size, or the part of it that `path` lacks.

        Raises:
            ShardError: the file is missing or shorter, the server does not answer, or the disk
                cannot be written.
            ConfigError: as `read`.
        """
        path.touch()
        block_bytes = MAX_BLOCK_BYTES
        attempts_left, backoff_seconds = self.max_attempts, self.backoff_seconds
        while (start := path.stat().st_size) < num_bytes:
            end = min(start + block_bytes, num_bytes)
            try:
                content = self._read_range(url, start, end, num_bytes)
            except _known_errors() as error:
                attempts_left -= 1
                self._raise_if_final(url, error, attempts_left)
                block_bytes = max((end - start) // 4, MIN_BLOCK_BYTES)  # a connection that breaks
                time.sleep(backoff_seconds)
                backoff_seconds *= 2
                continue
            attempts_left, backoff_seconds = self.max_attempts, self.backoff_seconds
            block_bytes = min(2 * block_bytes, MAX_BLOCK_BYTES)
            _append(content, path)

    def decompressed_bytes(self, url: str) -> int:
        """Return the size of the content of a gzip file, a URL or path.

        Raises:
            ShardError, ConfigError: as `decompress`.
        """
        return self._retry(url, lambda: sum(map(len, self._decompressed(url))))

    def decompress(self, url: str, path: Path, num_bytes: int) -> None:
        """Write the content of a gzip file, a URL or path, up to this size.

        Raises:
            ShardError: the file is missing, corrupt or cut short, or the disk cannot be written.
            ConfigError: as `read`.
        """

        def write() -> None:
            path.write_bytes(b"")
            left = num_bytes
            for block in self._decompressed(url):
                _append(block[:left], path)
                left -= len(block)
                if left <= 0:
                    return

        self._retry(url, write)

    def _decompressed(self, url: str) -> Iterator[bytes]:
        """Yield the content of a gzip file in blocks."""
        files = self._open(url) if is_url(url) else fsspec.filesystem("file")
        with files.open(url, "rb") as stream, gzip.open(stream) as content:
            while block := content.read(MAX_BLOCK_BYTES):
                yield block

    def _read_range(self, url: str, start: int, end: int, num_bytes: int) -> bytes:
        if start == 0 and end == num_bytes:
            content = self._open(url).cat_file(url)
        else:
            # Hugging Face's files read ahead, 5 MB with each range, unless told not to.
            options = {"cache_type": "none"} if urlsplit(url).scheme == "hf" else {}
            content = self._open(url).cat_file(url, start=start, end=end, **options)
        if len(content) == num_bytes != end - start:
            return content[start:end]  # the server ignores ranges
        if len(content) != end - start:
            raise ConnectionError(f"the server sends {len(content)} bytes, not {end - start}")
        return content

    def _open(self, url: str) -> Any:
        """Return the file system of a URL; fsspec keeps one for each process."""
        scheme = urlsplit(url).scheme
        if scheme not in SCHEMES or not urlsplit(url).netloc or "::" in url:
            raise ConfigError(
                f"{redact(url)} is not a supported URL. Use http://..., https://...,"
                " s3://BUCKET/PATH, gs://BUCKET/PATH or hf://datasets/USER/NAME/PATH."
            )
        try:
            return fsspec.filesystem(scheme, **self._options(scheme))
        except ImportError as error:
            raise ConfigError(f"{redact(url)} cannot be read: {error}.") from error

    def _options(self, scheme: str) -> dict[str, Any]:
        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout  # takes a tenth of a second

            seconds = self.timeout_seconds
            timeout = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
            return {"encoded": True, "client_kwargs": {"timeout": timeout, "trust_env": True}}
        if scheme == "s3":
            seconds = self.timeout_seconds
            return {
                "endpoint_url": self.s3_endpoint or None,
                "anon": not has_s3_credentials(),
                "config_kwargs": {"connect_timeout": seconds, "read_timeout": seconds},
            }
        return {}

    def _retry(self, url: str, fetch: Callable[[], Result]) -> Result:
        """Repeat a request with exponential backoff while it fails with a transient error."""
        backoff_seconds = self.backoff_seconds
        for attempts_left in range(self.max_attempts - 1, -1, -1):
            try:
                return fetch()
            except _known_errors() as error:
                self._raise_if_final(url, error, attempts_left)
            time.sleep(backoff_seconds)
            backoff_seconds *= 2
        raise AssertionError("max_attempts is at least 1")

    def _raise_if_final(self, url: str, error: BaseException, attempts_left: int) -> None:
        error = _cause(error)
        if not attempts_left or not _is_transient(error):
            raise ShardError(f"Cannot download {redact(url)}: {_reason(error, url)}.") from error


class _RemoteFile(RawIOBase):
    """The bytes of a file behind a URL, each read of which is a range."""

    def __init__(self, store: RemoteStore, url: str) -> None:
        super().__init__()
        self._store, self._url, self._offset = store, url, 0
        self._num_bytes = store.num_bytes(url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        start = {SEEK_SET: 0, SEEK_CUR: self._offset, SEEK_END: self._num_bytes}[whence]
        self._offset = start + offset
        return self._offset

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer).cast("B")
        end = min(self._offset + len(target), self._num_bytes)
        if end <= self._offset:
            return 0
        content = self._store.read_range(self._url, self._offset, end, self._num_bytes)
        target[: len(content)] = content
        self._offset = end
        return len(content)


@cache
def has_s3_credentials() -> bool:
    """Return whether botocore finds credentials; a public bucket is read without them."""
    try:
        from botocore.session import get_session
    except ImportError:  # fsspec says what to install
        return True
    return get_session().get_credentials() is not None


def _known_errors() -> tuple[type[BaseException], ...]:
    """Return the errors that a request may raise, of the libraries that have been imported."""
    modules = [(sys.modules.get(module), name) for module, name in LIBRARY_ERRORS]
    found = [getattr(module, name) for module, name in modules if module is not None]
    return (OSError, EOFError, TimeoutError, zlib.error, *found)


def _append(content: bytes, path: Path) -> None:
    """Append to a file.

    Raises:
        ShardError: the disk cannot be written.
    """
    try:
        with path.open("ab") as stream:
            stream.write(content)
    except OSError as error:
        raise ShardError(
            f"Cannot write {path}: {error.strerror}. Free disk space,"
            " or set data.cache_folder or data.cache_gb."
        ) from error


def _cause(error: BaseException) -> BaseException:
    """Return what has failed; fsspec also reports a broken connection as a missing file."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, _known_errors()):
        return error
    return error if _status(cause) == HTTPStatus.NOT_FOUND else cause


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp or of Hugging Face's httpx stands for."""
    status = getattr(error, "status", None)
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_transient(error: BaseException) -> bool:
    if isinstance(
        error, FileNotFoundError | PermissionError | gzip.BadGzipFile | EOFError | zlib.error
    ):
        return False
    status = _status(error)
    return status is None or status in TRANSIENT_STATUS


def _reason(error: BaseException, url: str) -> str:
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == HTTPStatus.NOT_FOUND:
        return "it does not exist"
    if status is not None:
        return f"the server answers {status} {responses.get(status, '')}".rstrip()
    if isinstance(error, TimeoutError):
        return "the server timed out"
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace(url, redact(url))
