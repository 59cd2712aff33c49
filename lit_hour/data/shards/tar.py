"""A subject's part of a tar in, its members out; and back. `tarfile` reads the same at a fifth of the speed of a disk.

Source: the tar format of POSIX.1-1988 (ustar), and GNU tar's members for long names.


An open tar and the place of a subject in it -> the subject's members, each in its turn. Damage is named."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TypeVar
from zlib import adler32

from lit_hour.data.shards.mmap import MmapSlice
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.errors import ShardError

BLOCK_BYTES = 512
CHECKSUM = slice(
    148, 156
)  # the sum of the header's bytes, in which this field counts as eight spaces
ADLER_MODULUS = 65521

CHUNK_BYTES = (
    2**20
)  # that are read at once where they are not kept: they stay in the cache of a processor

Content = TypeVar("Content", bytes, MmapSlice)


def write_member(stream: BinaryIO, name: str, parts: Sequence[bytes | memoryview]) -> int:
    """Write a member from parts that are not copied first; how many bytes of the tar it takes.

    Every member has the same time and owner, so that the same content gives the same bytes.
    """
    member = tarfile.TarInfo(name)
    member.size, member.mode = (
        sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts),
        0o644,
    )
    header, filling = member.tobuf(tarfile.GNU_FORMAT), bytes(-member.size % BLOCK_BYTES)
    for part in (header, *parts, filling):
        stream.write(part)
    return len(header) + member.size + len(filling)


def read_members(
    tar: BinaryIO, num_bytes: int, read: Callable[[BinaryIO, int], Content]
) -> Iterator[tuple[str, Content, bool]]:
    """Name and content of each member of the next so many bytes, and whether it is a file; at what is no sound header it ends.

    Each is read by itself, from a file without a buffer straight to its place, while the system reads the next ones ahead: from
    a disk that is half as fast again as to read them at once and to cut them up.

    Args:
        read: `read_bytes` or `read_mapped`.

    Raises:
        EOFError: the file ends before.
    """
    left, long_name, padding = num_bytes, "", 0
    while left >= padding + BLOCK_BYTES:
        header = read_bytes(tar, padding + BLOCK_BYTES)[padding:]
        left -= padding + BLOCK_BYTES
        try:
            size = int(header[124:135], 8)
            is_sound = _checksum_ok(header)
            name = long_name or header[:100].rstrip(b"\0").decode()
        except ValueError:
            return
        if not is_sound or size > left:
            return
        kind, content = header[156:157], read(tar, size)
        left, padding = left - size, -size % BLOCK_BYTES
        long_name = bytes(content).rstrip(b"\0").decode(errors="replace") if kind == b"L" else ""
        if kind != b"L":
            yield name, content, kind in (b"0", b"\0")


def read_bytes(tar: BinaryIO, num_bytes: int) -> bytes:
    """So many bytes, of which a network disk may give some at a time.

    Raises:
        EOFError: the file ends before.
    """
    content = tar.read(num_bytes)
    while len(content) < num_bytes:
        more = tar.read(num_bytes - len(content))
        if not more:
            raise EOFError
        content += more
    return content


def read_mapped(tar: BinaryIO, num_bytes: int) -> MmapSlice:
    """The same as memory that shows the file, and may be written to, which torch wants of what a tensor is to share.

    All of it is read once and let go, so that a file that ends, or a disk that fails, is found here and has a name: where
    memory that shows a file cannot be read, the process dies. The system keeps what was read, and nobody else has to.

    Raises:
        EOFError: the file ends before.
    """
    start, left = tar.tell(), num_bytes
    if hasattr(
        os, "posix_fadvise"
    ):  # what is read piece by piece is else read ahead by a few pieces only
        os.posix_fadvise(tar.fileno(), start, num_bytes, os.POSIX_FADV_WILLNEED)
    piece = memoryview(bytearray(min(num_bytes, CHUNK_BYTES)))
    while left:
        num_read = tar.readinto(piece[:left])  # type: ignore[attr-defined]
        if not num_read:
            raise EOFError
        left -= num_read
    return MmapSlice(os.dup(tar.fileno()), start, num_bytes)


def _checksum_ok(header: bytes) -> bool:
    """Whether a header has its checksum. The lower half of Adler-32 is one more than the sum of the bytes, and quick."""
    field = header[CHECKSUM]
    of_others = (adler32(header) & 0xFFFF) - 1 - sum(field)
    return (of_others + len(field) * ord(" ") - int(field.strip(b"\0 "), 8)) % ADLER_MODULUS == 0


def read_entry_members(
    tar: BinaryIO, path: str, record: IndexEntry, read: Callable[[BinaryIO, int], Content]
) -> Iterator[tuple[str, Content]]:
    """Name and content of each member; at a damaged header it ends, which the caller sees as a missing member.

    Args:
        path: of the tar, for errors.
        read: `read_bytes` or `read_mapped`.

    Raises:
        ShardError: the tar cannot be read, or ends before, or a member is no file.
    """
    try:
        tar.seek(record.offset)
        for name, content, is_file in read_members(tar, record.num_bytes, read):
            if not is_file:
                raise ShardError(
                    f"{path}: {record.modality} {record.key!r}: the member {name} is no file"
                )
            yield name, content
    except EOFError as error:
        raise _truncated(path, record) from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error


def expect_member(
    members: Iterator[tuple[str, Content]], stem: str, suffixes: Sequence[str], place: str
) -> tuple[str, Content]:
    """The next member, which has to have this stem and one of the suffixes.

    Raises:
        ShardError: it has another name, or there is none.
    """
    member = next(members, None)
    if member is not None:
        found_stem, _, found_suffix = member[0].rpartition(".")
        if found_stem == stem and found_suffix in suffixes:
            return member
    names = " or ".join(f"{stem}.{suffix}" for suffix in suffixes)
    found = member[0] if member else "nothing readable"
    raise ShardError(
        f"{place}: the member {names} is missing or its header is damaged; found {found}"
    )


def read_raw(tar: BinaryIO, path: str, record: IndexEntry) -> bytes:
    """All members of a subject as they lie in the tar.

    Raises:
        ShardError: the tar cannot be read, or ends before.
    """
    try:
        tar.seek(record.offset)
        return read_bytes(tar, record.num_bytes)
    except EOFError as error:
        raise _truncated(path, record) from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error


def _truncated(path: str, record: IndexEntry) -> ShardError:
    return ShardError(
        f"{path} ends inside the {record.modality} {record.key!r}: the tar is truncated, pack it again"
    )
