"""Where a folder of shards lies, on a disk or behind a URL -> its indexes, and open tars."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from lit_hour.data.cache import ShardCache
from lit_hour.data.index import SHARD_PATTERN, TOTALS_NAME, ShardIndex, parse_index, parse_json, read_index
from lit_hour.data.web import join_url, shown
from lit_hour.errors import ShardError

INDEXES_AT_ONCE = 16  # fetched from a server


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
            raise ShardError(f"{self} holds no shards: make some with python -m lit_hour pack FILES QUESTIONS {self}")
        totals_path = self.path / TOTALS_NAME
        if not totals_path.is_file():
            raise ShardError(f"{self} is not finished ({TOTALS_NAME} is missing): run the same pack command again")
        num_shards = _num_shards(totals_path.read_bytes(), str(totals_path))
        if num_shards != len(paths):
            raise ShardError(f"{self} holds {len(paths)} shards, but {totals_path} counts {num_shards}: pack again")
        indexes = tuple(read_index(path) for path in paths)
        for index in indexes:
            _check_tar(self.path / index.shard, index.bytes)
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
        return shown(self.url).rstrip("/")

    def indexes(self) -> tuple[ShardIndex, ...]:
        """The index of each shard that `index.json` counts."""
        content = self.cache.web.read(join_url(self.url, TOTALS_NAME))
        num_shards = _num_shards(content, f"{self}/{TOTALS_NAME}")
        names = [f"{number:06d}.json" for number in range(num_shards)]
        with ThreadPoolExecutor(INDEXES_AT_ONCE) as executor:
            contents = executor.map(lambda name: self.cache.web.read(join_url(self.url, name)), names)
            return tuple(parse_index(content, f"{self}/{name}") for name, content in zip(names, contents, strict=True))

    def open(self, index: ShardIndex) -> BinaryIO:
        """The tar of a shard, from the cache."""
        return self.cache.open(join_url(self.url, index.shard), index)


def _num_shards(content: bytes, place: str) -> int:
    """How many shards the totals of a folder count."""
    num_shards = parse_json(content, place).get("num_shards")
    if not isinstance(num_shards, int) or num_shards < 1:
        raise ShardError(f"{place} says num_shards={num_shards!r}, which is no number of shards: pack again")
    return num_shards


def _check_tar(path: Path, num_bytes: int) -> None:
    if not path.is_file():
        raise ShardError(f"{path} is missing, but its index is there: delete the index and pack again")
    if path.stat().st_size != num_bytes:
        raise ShardError(f"{path} has {path.stat().st_size} bytes, its index says {num_bytes}: it is damaged, pack it again")
