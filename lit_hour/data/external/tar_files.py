"""Tars of others by their locations: on a disk, behind a URL, or compressed with gzip."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from webdataset.shardlists import expand_urls

from lit_hour.data.shards.cache import ShardCache
from lit_hour.data.shards.shard_index import IndexEntry, ShardIndex
from lit_hour.errors import ShardError
from lit_hour.io.urls import file_path, is_gzip, is_url, redact

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class TarFile:
    """A tar that others wrote.

    Attributes:
        location: path or URL.
        cache: of tars behind URLs, and of decompressed ones.
    """

    location: str
    cache: ShardCache

    @property
    def name(self) -> str:
        """Last part of the location."""
        return self.path.name

    @property
    def path(self) -> PurePosixPath:
        """Path of the file, or of the URL."""
        return PurePosixPath(file_path(self.location))

    @property
    def is_remote(self) -> bool:
        """Return whether the location is a URL."""
        return is_url(self.location)

    @property
    def is_cached(self) -> bool:
        """Return whether the tar is read through the cache."""
        return self.is_remote or is_gzip(self.location)

    def stamp(self) -> tuple[int, int]:
        """Return size and modification time in nanoseconds of the file; 0 of a URL.

        Raises:
            ShardError: the file cannot be read.
        """
        if self.is_remote:
            return self.cache.store.num_bytes(self.location), 0
        try:
            status = Path(self.location).stat()
        except OSError as error:
            raise ShardError(f"Cannot read {self.location}: {error.strerror}.") from error
        return status.st_size, status.st_mtime_ns

    def fetch(self) -> Path:
        """Return the path of the plain tar, after downloading or decompressing it.

        Raises:
            ShardError: it cannot be read, or does not fit into the cache.
        """
        return self.cache.add(self.location) if self.is_cached else Path(self.location)


@dataclass(frozen=True)
class TarFiles:
    """Tars by the names of their shards, with the indexes that were made of them."""

    tars: Mapping[str, tuple[TarFile, ShardIndex]]

    def indexes(self) -> tuple[ShardIndex, ...]:
        """Return the indexes that were made of the tars."""
        return tuple(index for _, index in self.tars.values())

    def open(self, index: ShardIndex) -> BinaryIO:
        """Open a tar, unbuffered.

        Raises:
            ShardError: it cannot be read or downloaded.
        """
        tar, made = self.tars[index.shard]
        if tar.is_cached:
            return tar.cache.open(tar.location, made)
        try:
            return Path(tar.location).open("rb", buffering=0)
        except OSError as error:
            raise ShardError(f"Cannot read {tar.location}: {error.strerror}.") from error

    def open_entry(self, index: ShardIndex, entry: IndexEntry) -> tuple[BinaryIO, IndexEntry]:
        """Open the bytes of one sample.

        Raises:
            ShardError: as `open`.
        """
        tar, made = self.tars[index.shard]
        if tar.is_cached:
            return tar.cache.open_entry(tar.location, made, entry)
        return self.open(index), entry


def relative_names(tars: Sequence[TarFile]) -> tuple[str, list[str]]:
    """Return the folder of all tars, and of each a name that stays when all of them are moved."""
    paths = [str(tar.path if tar.is_remote else Path(tar.location).absolute()) for tar in tars]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [PurePosixPath(path).relative_to(folder).as_posix() for path in paths]
    if len(set(names)) < len(names):  # on several servers
        return "", [redact(tar.location) for tar in tars]
    url = urlsplit(redact(tars[0].location))
    return (f"{url.scheme}://{url.netloc}{folder}" if tars[0].is_remote else folder), names


def names_tars(location: str) -> bool:
    """Return whether the text of a source names tars, not a folder of packed shards."""
    return file_path(location).endswith(TAR_SUFFIXES)


def expand_tars(pattern: str, cache: ShardCache) -> list[TarFile]:
    """Return the tars that braces, globs and `::` between several stand for, in order.

    Raises:
        ShardError: there is none, or a path does not exist.
    """
    locations: dict[str, None] = {}
    for name in expand_urls(pattern):
        if is_url(name):
            found = cache.store.glob(name) if "*" in name else [name]
        else:
            is_pattern = glob.has_magic(name) and not Path(name).is_file()
            found = sorted(glob.glob(name, recursive=True)) if is_pattern else [name]
        locations |= dict.fromkeys(found)
    missing = [name for name in locations if not is_url(name) and not Path(name).is_file()]
    if missing or not locations:
        raise ShardError(
            f"{pattern} names {len(locations)} tars, and {len(missing)} of them do not exist"
            f"{': ' + missing[0] if missing else ''}. Give their paths, such as"
            " data/{00000..00099}.tar."
        )
    return [TarFile(location, cache) for location in locations]
