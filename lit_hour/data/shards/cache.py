"""Cache of shards that were downloaded, which all processes of a machine share.

A shard is stored under its SHA-256, wherever it comes from:

    CACHE/c7/c7c27151....tar                 verified; its modification time is its last use
    CACHE/c7/c7c27151....285184.download     incomplete; 285184 bytes are reserved for it
    CACHE/.lock  CACHE/c7/.lock              held while space is reserved, and during a download
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lit_hour.config.data import DataConfig
from lit_hour.data.shards.http import HTTPClient, redact
from lit_hour.data.shards.shard_index import ShardIndex
from lit_hour.errors import ShardError
from lit_hour.io.file_lock import dir_lock, is_locked

SHA256 = re.compile(r"[0-9a-f]{64}")
DOWNLOAD_SUFFIX = ".download"
POLL_SECONDS = 0.1


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
