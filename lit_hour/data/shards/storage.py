"""Where a folder of shards lies, on a disk or behind a URL -> its indexes, and open tars.

A shard behind a URL in, an open file out: whole shards on the local disk, checked before use, the oldest removed.

All processes of a machine share one folder. A shard is known by its SHA-256, wherever it comes from:

    CACHE/c7/c7c27151....tar                          checked, and used at its time of change
    CACHE/c7/c7c27151....285184.unfinished            being fetched, or left by a process that was killed; 285184 bytes
    CACHE/.lock  CACHE/c7/.lock                       held while room is made, and while a shard is fetched
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

MAX_CONCURRENT_FETCHES = 16  # fetched from a server


class ShardFolder(Protocol):
    """A folder that `python -m lit_hour pack` has filled; as text it is the path or URL that messages name."""

    def indexes(self) -> tuple[ShardIndex, ...]:
        """The index of each shard, in order.

        Raises:
            ShardError: the folder holds no shards, packing has not finished, or an index or a tar is missing or damaged.
        """

    def open(self, index: ShardIndex) -> BinaryIO:
        """The tar of a shard, without a buffer: `read_members` takes every byte once.

        Raises:
            ShardError: it cannot be had.
        """


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a local or shared disk, read where it lies."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def indexes(self) -> tuple[ShardIndex, ...]:
        """The index of each shard, whose tar is there and as long as the index says."""
        paths = sorted(self.path.glob(SHARD_PATTERN + ".json"))
        if not paths:
            raise ShardError(
                f"{self} holds no shards: make some with python -m lit_hour pack FILES QUESTIONS {self}"
            )
        totals_path = self.path / TOTALS_NAME
        if not totals_path.is_file():
            raise ShardError(
                f"{self} is not finished ({TOTALS_NAME} is missing): run the same pack command again"
            )
        num_shards = _num_shards(totals_path.read_bytes(), str(totals_path))
        if num_shards != len(paths):
            raise ShardError(
                f"{self} holds {len(paths)} shards, but {totals_path} counts {num_shards}: pack again"
            )
        indexes = tuple(read_index(path) for path in paths)
        for index in indexes:
            _check_tar(self.path / index.shard, index.num_bytes)
        return indexes

    def open(self, index: ShardIndex) -> BinaryIO:
        """The tar of a shard."""
        path = self.path / index.shard
        try:
            return path.open("rb", buffering=0)
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind an http://, https:// or s3:// URL: its indexes are fetched at once, its tars when they are wanted."""

    url: str
    cache: ShardCache

    def __str__(self) -> str:
        return redact(self.url).rstrip("/")

    def indexes(self) -> tuple[ShardIndex, ...]:
        """The index of each shard that `index.json` counts."""
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
        """The tar of a shard, from the cache."""
        return self.cache.open(join_url(self.url, index.shard), index)


def _num_shards(content: bytes, place: str) -> int:
    """How many shards the totals of a folder count."""
    num_shards = parse_json(content, place).get("num_shards")
    if not isinstance(num_shards, int) or num_shards < 1:
        raise ShardError(
            f"{place} says num_shards={num_shards!r}, which is no number of shards: pack again"
        )
    return num_shards


def _check_tar(path: Path, num_bytes: int) -> None:
    if not path.is_file():
        raise ShardError(
            f"{path} is missing, but its index is there: delete the index and pack again"
        )
    if path.stat().st_size != num_bytes:
        raise ShardError(
            f"{path} has {path.stat().st_size} bytes, its index says {num_bytes}: it is damaged, pack it again"
        )


SHA256 = re.compile(r"[0-9a-f]{64}")
SECONDS_BETWEEN_LOOKS = 0.1  # at whether others have finished and left room


@dataclass(frozen=True)
class ShardCache:
    """Shards that were fetched. It holds no open file, so that it can be sent to other processes.

    Attributes:
        folder: shared by every process of a machine; made when missing.
        max_bytes: of all that lies in it.
        web: how files are fetched.
    """

    folder: Path
    max_bytes: int
    http: HTTPClient

    @classmethod
    def from_config(cls, settings: DataConfig) -> ShardCache:
        """The cache by the settings of a run."""
        return cls(
            Path(settings.cache_folder),
            round(settings.cache_gb * 1e9),
            HTTPClient(settings.s3_endpoint),
        )

    def open(self, url: str, index: ShardIndex) -> BinaryIO:
        """A shard's tar, open for reading; it stays readable when its place is given to another one.

        Raises:
            ShardError: it cannot be fetched, is not what its index says, or does not fit into the cache.
        """
        if not SHA256.fullmatch(index.sha256):
            raise ShardError(
                f"the index of {redact(url)} has no SHA-256, but {index.sha256!r}: pack again"
            )
        path = self.folder / index.sha256[:2] / f"{index.sha256}.tar"
        try:
            stream = _open_whole(path, index.num_bytes)
            if stream is None:
                with locked(path.parent):  # who waited here finds it fetched
                    stream = _open_whole(path, index.num_bytes) or self._fetch(url, index, path)
        except OSError as error:
            raise ShardError(f"data.cache_folder={self.folder} cannot be used: {error}") from error
        return stream

    def _fetch(self, url: str, index: ShardIndex, path: Path) -> BinaryIO:
        """Fetch and check a shard whose folder is held, and open it before anybody can remove it."""
        if index.num_bytes > self.max_bytes:
            raise ShardError(
                f"{redact(url)} has {index.num_bytes} bytes, more than data.cache_gb={self.max_bytes / 1e9:g}: allow more"
            )
        unfinished = path.with_suffix(f".{index.num_bytes}{TEMP_SUFFIX}")
        self._reserve(unfinished, index.num_bytes)
        had_begun = unfinished.stat().st_size > 0
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
        if had_begun:  # what an earlier process left may have been at fault
            return self._fetch(url, index, path)
        raise ShardError(
            f"{redact(url)} has other bytes than its index says (SHA-256): upload both again"
        )

    def _reserve(self, unfinished: Path, num_bytes: int) -> None:
        """Make room for a shard and take it; while others fetch, and nothing else can go, wait for them."""
        while True:
            with locked(self.folder):
                if unfinished.is_file() or self._make_room(num_bytes):
                    unfinished.touch()
                    return
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _make_room(self, num_bytes: int) -> bool:
        """Remove what was used least recently until so many bytes fit; false when they do not fit now."""
        files = [*self.folder.glob("*/*.tar"), *self.folder.glob(f"*/*{TEMP_SUFFIX}")]
        used = sum(map(_reserved_bytes, files))
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
            if used + num_bytes <= self.max_bytes:
                break
            if file.suffix == ".tar" or not is_held(file.parent):
                used -= _reserved_bytes(file)
                file.unlink()
        return used + num_bytes <= self.max_bytes


def _open_whole(path: Path, num_bytes: int) -> BinaryIO | None:
    """A cached shard, which now counts as used; None when it is not there as a whole."""
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
    """The room that a file takes, or will take once it is fetched."""
    return file.stat().st_size if file.suffix == ".tar" else int(file.suffixes[-2][1:])
