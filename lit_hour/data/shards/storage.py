"""Folders of shards on a disk or behind a URL, and the cache of shards that were downloaded.

`LocalFolder` and `RemoteFolder` give the indexes of a folder and its tars as open files. All
processes of a machine share one cache. A shard is stored under its SHA-256, wherever it comes from:

    CACHE/c7/c7c27151....tar                 verified; its modification time is its last use
    CACHE/c7/c7c27151....285184.download     incomplete; 285184 bytes are reserved for it
    CACHE/.lock  CACHE/c7/.lock              held while space is reserved, and during a download
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
from lit_hour.io.file_lock import dir_lock, is_locked

MAX_CONCURRENT_FETCHES = 16
SHA256 = re.compile(r"[0-9a-f]{64}")
DOWNLOAD_SUFFIX = ".download"
POLL_SECONDS = 0.1


class ShardFolder(Protocol):
    """A folder that `lit-hour pack` or `lit-hour extract-features` has filled."""

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Return the index of each shard, in order.

        Raises:
            ShardError: the folder has no shards, is unfinished, or an index or a tar is missing or
                corrupt.
        """

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard, unbuffered: `read_members` reads every byte once.

        Raises:
            ShardError: it cannot be read or downloaded.
        """


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a local or shared disk."""

    path: Path

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Read the index of each shard, and check that its tar has the size in the index."""
        paths = sorted(self.path.glob(SHARD_PATTERN + ".json"))
        if not paths:
            raise ShardError(
                f"{self.path} contains no shards. Make some: lit-hour pack FILES QUESTIONS "
                f"{self.path}."
            )
        totals = self.path / TOTALS_NAME
        if not totals.is_file():
            raise ShardError(
                f"{self.path} is unfinished: {TOTALS_NAME} is missing. Run the same command again."
            )
        num_shards = _parse_num_shards(totals.read_bytes(), str(totals))
        if num_shards != len(paths):
            raise ShardError(
                f"{self.path} has {len(paths)} shards, but {totals} counts {num_shards}. Pack "
                "again."
            )
        indexes = tuple(read_index(path) for path in paths)
        for index in indexes:
            tar = self.path / index.shard
            if not tar.is_file():
                raise ShardError(f"{tar} is missing. Delete its index and pack again.")
            if tar.stat().st_size != index.num_bytes:
                raise ShardError(
                    f"{tar} has {tar.stat().st_size} bytes, but {index.num_bytes} by its index."
                    " Delete both and pack again."
                )
        return indexes

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard."""
        path = self.path / index.shard
        try:
            return path.open("rb", buffering=0)
        except OSError as error:
            raise ShardError(f"Cannot read {path}: {error.strerror}.") from error


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind an http://, https:// or s3:// URL.

    A tar is downloaded when it is first opened.
    """

    url: str
    cache: ShardCache

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Download the index of each shard."""
        http, folder = self.cache.http, redact(self.url).rstrip("/")
        content = http.read(join_url(self.url, TOTALS_NAME))
        num_shards = _parse_num_shards(content, f"{folder}/{TOTALS_NAME}")
        names = [f"{number:06d}.json" for number in range(num_shards)]
        with ThreadPoolExecutor(MAX_CONCURRENT_FETCHES) as executor:
            contents = executor.map(lambda name: http.read(join_url(self.url, name)), names)
            return tuple(
                parse_index(content, f"{folder}/{name}")
                for name, content in zip(names, contents, strict=True)
            )

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open the tar of a shard in the cache."""
        return self.cache.open(join_url(self.url, index.shard), index)


def _parse_num_shards(content: bytes, location: str) -> int:
    """Return the number of shards that the totals of a folder give."""
    num_shards = parse_json(content, location).get("num_shards")
    if not isinstance(num_shards, int) or num_shards < 1:
        raise ShardError(
            f"{location} has num_shards={num_shards!r}, which is not a number of shards. Pack "
            "again."
        )
    return num_shards


@dataclass(frozen=True)
class ShardCache:
    """Downloaded shards, least recently used removed first. It is picklable: it holds no open file.

    Attributes:
        folder: shared by all processes of a machine; created if missing.
        max_bytes: total size.
    """

    folder: Path
    max_bytes: int
    http: HTTPClient

    @classmethod
    def from_config(cls, config: DataConfig) -> ShardCache:
        """Build the cache from the settings of a run."""
        num_bytes = round(config.cache_gb * 1e9)
        return cls(Path(config.cache_folder), num_bytes, HTTPClient(config.s3_endpoint))

    def open(self, url: str, index: ShardIndex) -> BinaryIO:
        """Open a shard's tar; the open file stays readable when the cache removes it.

        Raises:
            ShardError: it cannot be downloaded, differs from its index, or does not fit into the
                cache.
        """
        if not SHA256.fullmatch(index.sha256):
            raise ShardError(
                f"The index of {redact(url)} has sha256={index.sha256!r}, which is not a SHA-256."
                " Pack the shard again."
            )
        path = self.folder / index.sha256[:2] / f"{index.sha256}.tar"
        try:
            stream = _open_cached(path, index.num_bytes)
            if stream is None:
                with dir_lock(path.parent):  # another process may have downloaded it meanwhile
                    stream = _open_cached(path, index.num_bytes) or self._download(url, index, path)
        except OSError as error:
            raise ShardError(f"Cannot use data.cache_folder={self.folder}: {error}.") from error
        return stream

    def _download(self, url: str, index: ShardIndex, path: Path) -> BinaryIO:
        """Download, verify and open a shard, while its folder is locked.

        It is opened before it can be removed.
        """
        if index.num_bytes > self.max_bytes:
            raise ShardError(
                f"{redact(url)} has {index.num_bytes} bytes, more than"
                f" data.cache_gb={self.max_bytes / 1e9:g}. Set a larger value."
            )
        download = path.with_suffix(f".{index.num_bytes}{DOWNLOAD_SUFFIX}")
        self._reserve(download, index.num_bytes)
        is_resumed = download.stat().st_size > 0
        self.http.download(url, download, index.num_bytes)
        stream = download.open("rb")
        if hashlib.file_digest(stream, "sha256").hexdigest() == index.sha256:
            os.fsync(stream.fileno())
            with dir_lock(self.folder):
                download.replace(path)
            stream.seek(0)
            return stream
        stream.close()
        download.unlink()
        if is_resumed:  # the bytes of the earlier download may be wrong
            return self._download(url, index, path)
        raise ShardError(
            f"{redact(url)} does not have the SHA-256 of its index. Upload both files again."
        )

    def _reserve(self, download: Path, num_bytes: int) -> None:
        """Reserve space for a shard; wait while other downloads use all of it."""
        while True:
            with dir_lock(self.folder):
                if download.is_file() or self._evict(num_bytes):
                    download.touch()
                    return
            time.sleep(POLL_SECONDS)

    def _evict(self, num_bytes: int) -> bool:
        """Remove the least recently used shards until this many bytes fit.

        Return whether they do.
        """
        files = [*self.folder.glob("*/*.tar"), *self.folder.glob(f"*/*{DOWNLOAD_SUFFIX}")]
        used = sum(map(_reserved_bytes, files))
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
            if used + num_bytes <= self.max_bytes:
                break
            if file.suffix == ".tar" or not is_locked(dir_lock(file.parent)):
                used -= _reserved_bytes(file)
                file.unlink()
        return used + num_bytes <= self.max_bytes


def _open_cached(path: Path, num_bytes: int) -> BinaryIO | None:
    """Open a cached shard and mark it as used; None if it is missing or incomplete."""
    try:
        stream: BinaryIO = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    if os.fstat(stream.fileno()).st_size != num_bytes:
        stream.close()
        return None
    with suppress(FileNotFoundError):  # removed since it was opened
        os.utime(path)
    return stream


def _reserved_bytes(file: Path) -> int:
    """Return the bytes that a file uses, or will use when its download is complete."""
    return file.stat().st_size if file.suffix == ".tar" else int(file.suffixes[-2][1:])
