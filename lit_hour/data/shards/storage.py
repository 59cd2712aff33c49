"""Local and remote folders of shards, and the LRU disk cache of remote shards (`ShardCache`).

All processes of a machine share one cache folder. A shard is stored whole, under its SHA-256:

    CACHE/c7/c7c27151....tar                 verified; its modification time is its last use
    CACHE/c7/c7c27151....285184.unfinished   partial download of 285184 bytes in all
    CACHE/.lock                              lock held during eviction
    CACHE/c7/.lock                           lock held during a download
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from lit_hour.config.data import DataConfig
from lit_hour.data.shards.http import HTTPClient, join_url, redact
from lit_hour.data.shards.shard_index import (
    SHARD_PATTERN,
    TOTALS_NAME,
    ShardIndex,
    parse_index,
    parse_json,
    read_index,
)
from lit_hour.errors import ShardError
from lit_hour.io.atomic import TEMP_SUFFIX
from lit_hour.io.file_lock import is_held, locked

MAX_CONCURRENT_FETCHES = 16  # index files


class ShardFolder(Protocol):
    """A folder of finished shards; `str` gives its path or URL for messages."""

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Read the index of each shard, in order.

        Raises:
            ShardError: the folder contains no shards, packing has not finished, or an index or a
                tar is missing or damaged.
        """

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard, unbuffered, because `read_members` reads each byte once.

        Raises:
            ShardError: the tar cannot be read or downloaded.
        """


@dataclass(frozen=True)
class LocalFolder:
    """A folder of shards on a local or shared disk."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Read the index of each shard, and check that its tar exists and has the right size."""
        paths = sorted(self.path.glob(SHARD_PATTERN + ".json"))
        if not paths:
            raise ShardError(
                f"{self} contains no shards. Create them with lit-hour pack FILES QUESTIONS {self}"
            )
        totals_path = self.path / TOTALS_NAME
        if not totals_path.is_file():
            raise ShardError(
                f"{self} is not finished, {TOTALS_NAME} is missing. Run the same command again"
            )
        num_shards = _num_shards(totals_path.read_bytes(), str(totals_path))
        if num_shards != len(paths):
            raise ShardError(
                f"{self} contains {len(paths)} shards, but {totals_path} lists {num_shards}."
                " Pack again"
            )
        indexes = tuple(read_index(path) for path in paths)
        for index in indexes:
            _check_tar(self.path / index.shard, index.num_bytes)
        return indexes

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard."""
        path = self.path / index.shard
        try:
            return path.open("rb", buffering=0)
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of shards at an http://, https:// or s3:// URL.

    The indexes are downloaded at once, the tars on first use.
    """

    url: str
    cache: ShardCache

    def __str__(self) -> str:
        return redact(self.url).rstrip("/")

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Download the index of each shard that `index.json` lists."""
        content = self.cache.http.read(join_url(self.url, TOTALS_NAME))
        num_shards = _num_shards(content, f"{self}/{TOTALS_NAME}")
        names = [f"{number:06d}.json" for number in range(num_shards)]
        with ThreadPoolExecutor(MAX_CONCURRENT_FETCHES) as executor:
            contents = executor.map(
                lambda name: self.cache.http.read(join_url(self.url, name)), names
            )
            return tuple(
                parse_index(content, f"{self}/{name}")
                for name, content in zip(names, contents, strict=True)
            )

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard from the cache, downloading it if necessary."""
        return self.cache.open(join_url(self.url, index.shard), index)


def _num_shards(content: bytes, location: str) -> int:
    """Parse the number of shards from a folder's `index.json`."""
    num_shards = parse_json(content, location).get("num_shards")
    if not isinstance(num_shards, int) or num_shards < 1:
        raise ShardError(
            f"{location} has num_shards={num_shards!r}, which must be a positive integer."
            " Pack again"
        )
    return num_shards


def _check_tar(path: Path, num_bytes: int) -> None:
    if not path.is_file():
        raise ShardError(
            f"{path} is missing, but its index exists. Delete the index and pack again"
        )
    if path.stat().st_size != num_bytes:
        raise ShardError(
            f"{path} has {path.stat().st_size} bytes, but its index records {num_bytes}."
            " The tar is damaged. Pack it again"
        )


SHA256 = re.compile(r"[0-9a-f]{64}")
SECONDS_BETWEEN_LOOKS = 0.1  # between attempts to reserve space


@dataclass(frozen=True)
class ShardCache:
    """LRU disk cache of remote shards; picklable, because it holds no open files.

    Attributes:
        folder: cache folder, shared by all processes of a machine; created if missing.
        max_bytes: maximum total size of the cached shards.
        http: client for downloads.
    """

    folder: Path
    max_bytes: int
    http: HTTPClient

    @classmethod
    def from_config(cls, settings: DataConfig) -> ShardCache:
        """Create the cache from the `data` settings."""
        return cls(
            Path(settings.cache_folder),
            round(settings.cache_gb * 1e9),
            HTTPClient(settings.s3_endpoint),
        )

    def open(self, url: str, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard for reading; it stays readable after its eviction.

        Raises:
            ShardError: the tar cannot be downloaded, does not match its index, or is too large.
        """
        if not SHA256.fullmatch(index.sha256):
            raise ShardError(
                f"The index of {redact(url)} has invalid SHA-256 {index.sha256!r}. Pack again"
            )
        path = self.folder / index.sha256[:2] / f"{index.sha256}.tar"
        try:
            stream = _open_cached(path, index.num_bytes)
            if stream is None:
                with locked(path.parent):  # may have been downloaded meanwhile
                    stream = _open_cached(path, index.num_bytes) or self._fetch(url, index, path)
        except OSError as error:
            raise ShardError(f"data.cache_folder={self.folder} cannot be used: {error}") from error
        return stream

    def _fetch(self, url: str, index: ShardIndex, path: Path) -> BinaryIO:
        """Download and verify a shard, and open it before it can be evicted.

        The caller holds the lock of its folder.
        """
        if index.num_bytes > self.max_bytes:
            raise ShardError(
                f"{redact(url)} has {index.num_bytes} bytes, more than"
                f" data.cache_gb={self.max_bytes / 1e9:g}. Increase data.cache_gb"
            )
        unfinished = path.with_suffix(f".{index.num_bytes}{TEMP_SUFFIX}")
        self._reserve(unfinished, index.num_bytes)
        is_resumed = unfinished.stat().st_size > 0
        self.http.download(url, unfinished, index.num_bytes)
        stream = unfinished.open("rb")
        if hashlib.file_digest(stream, "sha256").hexdigest() == index.sha256:
            os.fsync(stream.fileno())
            with locked(self.folder):
                unfinished.replace(path)
            stream.seek(0)
            return stream
        stream.close()
        unfinished.unlink()
        if is_resumed:  # the partial file of an earlier process may have been damaged
            return self._fetch(url, index, path)
        raise ShardError(f"{redact(url)} does not match the SHA-256 in its index. Upload both")

    def _reserve(self, unfinished: Path, num_bytes: int) -> None:
        """Reserve space for a shard, waiting while running downloads occupy the cache."""
        while True:
            with locked(self.folder):
                if unfinished.is_file() or self._evict(num_bytes):
                    unfinished.touch()
                    return
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _evict(self, num_bytes: int) -> bool:
        """Evict the least recently used shards until `num_bytes` fit; return whether they fit."""
        files = [*self.folder.glob("*/*.tar"), *self.folder.glob(f"*/*{TEMP_SUFFIX}")]
        used = sum(map(_reserved_bytes, files))
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
            if used + num_bytes <= self.max_bytes:
                break
            if file.suffix == ".tar" or not is_held(file.parent):
                used -= _reserved_bytes(file)
                file.unlink()
        return used + num_bytes <= self.max_bytes


def _open_cached(path: Path, num_bytes: int) -> BinaryIO | None:
    """Open a cached shard and mark it as used; return None if it is missing or incomplete."""
    try:
        stream: BinaryIO = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    if os.fstat(stream.fileno()).st_size != num_bytes:
        stream.close()
        return None
    with suppress(FileNotFoundError):  # evicted since it was opened
        os.utime(path)
    return stream


def _reserved_bytes(file: Path) -> int:
    """Return the size of a cached file, or its final size if it is being downloaded."""
    return file.stat().st_size if file.suffix == ".tar" else int(file.suffixes[-2][1:])
