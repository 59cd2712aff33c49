"""Cache of shards that were downloaded, which all processes of a machine share.

A shard is stored under its SHA-256, wherever it comes from:

    CACHE/c7/c7c27151....tar                 verified; its modification time is its last use
    CACHE/c7/c7c27151....285184.download     incomplete; 285184 bytes are reserved for it
    CACHE/new/5d06....285184.download        of unknown content, before its index is made
    CACHE/.lock  CACHE/c7/.lock              held while space is reserved, and during a download
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from lit_hour.config.data import DataConfig
from lit_hour.data.shards.background import background_downloads
from lit_hour.data.shards.shard_index import IndexEntry, ShardIndex
from lit_hour.data.shards.tar import starts_member
from lit_hour.errors import ShardError
from lit_hour.io.file_lock import dir_lock, is_locked
from lit_hour.io.hashing import hash_path
from lit_hour.io.memory_file import memory_file
from lit_hour.io.remote import RemoteStore
from lit_hour.io.urls import is_gzip, redact

SHA256 = re.compile(r"[0-9a-f]{64}")
DOWNLOAD_SUFFIX = ".download"
POLL_SECONDS = 0.1
SMALL_TAR_BYTES = 2**24  # downloaded at once, not by ranges


@dataclass(frozen=True)
class ShardCache:
    """Downloaded shards, least recently used removed first. It is picklable: it holds no open file.

    Attributes:
        folder: shared by all processes of a machine; created if missing.
        max_bytes: total size.
    """

    folder: Path
    max_bytes: int
    store: RemoteStore

    @classmethod
    def from_config(cls, config: DataConfig) -> ShardCache:
        """Build the cache from the settings of a run."""
        num_bytes = round(config.cache_gb * 1e9)
        return cls(Path(config.cache_folder), num_bytes, RemoteStore(config.s3_endpoint))

    def open(self, url: str, index: ShardIndex) -> BinaryIO:
        """Open a shard's tar; the open file stays readable when the cache removes it.

        Raises:
            ShardError: it cannot be downloaded, differs from its index, or does not fit into the
                cache.
        """
        path = self._path(url, index)
        try:
            stream = _open_cached(path, index.num_bytes)
            if stream is None:
                with dir_lock(path.parent):  # another process may have downloaded it meanwhile
                    stream = _open_cached(path, index.num_bytes) or self._download(url, index, path)
        except OSError as error:
            raise ShardError(f"Cannot use data.cache_folder={self.folder}: {error}.") from error
        return stream

    def open_entry(
        self, url: str, index: ShardIndex, entry: IndexEntry
    ) -> tuple[BinaryIO, IndexEntry]:
        """Open the bytes of one sample: in the tar if it is cached, else alone.

        The tar is then downloaded in a thread, and the samples that are needed meanwhile are
        fetched as ranges. Of these only size, header and key are checked; if they are wrong, the
        sample is read from the complete, verified tar.

        Args:
            url: of the tar, or path of a compressed one.
            index: of the tar.
            entry: of the sample.

        Returns:
            An unbuffered file, and the entry with its offset in that file.

        Raises:
            ShardError: as `open`; it may be the error of an earlier download in the thread.
        """
        try:
            stream = _open_cached(self._path(url, index), index.num_bytes)
        except OSError as error:
            raise ShardError(f"Cannot use data.cache_folder={self.folder}: {error}.") from error
        if stream is not None:
            return stream, entry
        is_small = index.num_bytes <= SMALL_TAR_BYTES
        if is_small or is_gzip(url) or index.num_bytes > self.max_bytes:
            return self.open(url, index), entry
        background_downloads().start(index.sha256, lambda: self.open(url, index).close())
        end = entry.offset + entry.num_bytes
        content = self.store.read_range(url, entry.offset, end, index.num_bytes)
        if not starts_member(content, entry.key):
            return self.open(url, index), entry
        return memory_file(content), replace(entry, offset=0)

    def add(self, url: str) -> Path:
        """Download or decompress a tar that has no index yet, and return its path in the cache.

        Raises:
            ShardError: it cannot be downloaded, or does not fit into the cache.
        """
        is_compressed = is_gzip(url)
        measure = self.store.decompressed_bytes if is_compressed else self.store.num_bytes
        num_bytes = measure(url)
        self._check_size(url, num_bytes)
        name = hashlib.sha256(url.encode()).hexdigest()
        download = self.folder / "new" / f"{name}.{num_bytes}{DOWNLOAD_SUFFIX}"
        with dir_lock(download.parent):
            download.unlink(missing_ok=True)  # nothing tells whether it is of the same content
            self._reserve(download, num_bytes)
            self._fetch(url, download, num_bytes)
            digest = hash_path(download)
            path = self.folder / digest[:2] / f"{digest}.tar"
            path.parent.mkdir(exist_ok=True)
            with dir_lock(self.folder):
                download.replace(path)
        return path

    def _path(self, url: str, index: ShardIndex) -> Path:
        """Return where a tar is cached.

        Raises:
            ShardError: its index has no SHA-256.
        """
        if not SHA256.fullmatch(index.sha256):
            raise ShardError(
                f"The index of {redact(url)} has sha256={index.sha256!r}, which is not a SHA-256."
                " Make the index again."
            )
        return self.folder / index.sha256[:2] / f"{index.sha256}.tar"

    def _check_size(self, url: str, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise ShardError(
                f"{redact(url)} has {num_bytes} bytes, more than"
                f" data.cache_gb={self.max_bytes / 1e9:g}. Set a larger value."
            )

    def _fetch(self, url: str, download: Path, num_bytes: int) -> None:
        if is_gzip(url):
            self.store.decompress(url, download, num_bytes)
        else:
            self.store.download(url, download, num_bytes)

    def _download(self, url: str, index: ShardIndex, path: Path) -> BinaryIO:
        """Download, verify and open a shard, while its folder is locked.

        It is opened before it can be removed.
        """
        self._check_size(url, index.num_bytes)
        download = path.with_suffix(f".{index.num_bytes}{DOWNLOAD_SUFFIX}")
        self._reserve(download, index.num_bytes)
        is_resumed = download.stat().st_size > 0
        self._fetch(url, download, index.num_bytes)
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
            f"{redact(url)} does not have the SHA-256 of its index. Upload both again, or"
            " index the tar again."
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
