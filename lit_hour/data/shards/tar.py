"""Fast reading and writing of tar members; `tarfile` reads at only a fifth of the disk's speed.

Source: the tar format of POSIX.1-1988 (ustar), and GNU tar's members for long names.
"""

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
CHECKSUM = slice(148, 156)  # sum of the header's bytes, with this field taken as eight spaces
ADLER_MODULUS = 65521

CHUNK_BYTES = 2**20  # read at once where the bytes are dropped; fits the CPU cache

Content = TypeVar("Content", bytes, MmapSlice)


def write_member(stream: BinaryIO, name: str, parts: Sequence[bytes | memoryview]) -> int:
    """Write a member from several buffers without joining them.

    All members have the same time and owner, so that equal content gives equal bytes.

    Returns:
        Number of bytes written, header and padding included.
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
    """Iterate over the members in the next `num_bytes` bytes; stop at an invalid header.

    Each member is read separately and unbuffered, while the OS reads ahead. From a disk that is 1.5
    times as fast as reading everything at once and splitting it.

    Args:
        tar: unbuffered file, positioned at a header.
        num_bytes: size of the byte range to read.
        read: `read_bytes` or `read_mapped`.

    Yields:
        Name, content, and whether the member is a regular file.

    Raises:
        EOFError: the file ends before `num_bytes`.
    """
    num_left, long_name, padding = num_bytes, "", 0
    while num_left >= padding + BLOCK_BYTES:
        header = read_bytes(tar, padding + BLOCK_BYTES)[padding:]
        num_left -= padding + BLOCK_BYTES
        try:
            size = int(header[124:135], 8)
            is_valid = _checksum_ok(header)
            name = long_name or header[:100].rstrip(b"\0").decode()
        except ValueError:
            return
        if not is_valid or size > num_left:
            return
        kind, content = header[156:157], read(tar, size)
        num_left, padding = num_left - size, -size % BLOCK_BYTES
        long_name = bytes(content).rstrip(b"\0").decode(errors="replace") if kind == b"L" else ""
        if kind != b"L":
            yield name, content, kind in (b"0", b"\0")


def read_bytes(tar: BinaryIO, num_bytes: int) -> bytes:
    """Read exactly `num_bytes` bytes; a network disk may return fewer per read.

    Raises:
        EOFError: the file ends before `num_bytes`.
    """
    content = tar.read(num_bytes)
    while len(content) < num_bytes:
        more = tar.read(num_bytes - len(content))
        if not more:
            raise EOFError
        content += more
    return content


def read_mapped(tar: BinaryIO, num_bytes: int) -> MmapSlice:
    """Memory-map the next `num_bytes` bytes, writable, as `torch.frombuffer` requires.

    The bytes are read once and dropped, which leaves them in the page cache. A truncated file or a
    failing disk then raises an exception here; on access to the mapping it would kill the process
    with SIGBUS.

    Raises:
        EOFError: the file ends before `num_bytes`.
    """
    start, num_left = tar.tell(), num_bytes
    if hasattr(os, "posix_fadvise"):  # otherwise the OS reads only a few chunks ahead
        os.posix_fadvise(tar.fileno(), start, num_bytes, os.POSIX_FADV_WILLNEED)
    chunk = memoryview(bytearray(min(num_bytes, CHUNK_BYTES)))
    while num_left:
        num_read = tar.readinto(chunk[:num_left])  # type: ignore[attr-defined]
        if not num_read:
            raise EOFError
        num_left -= num_read
    return MmapSlice(os.dup(tar.fileno()), start, num_bytes)


def _checksum_ok(header: bytes) -> bool:
    """Check a header's checksum: the low half of Adler-32 is the sum of the bytes plus 1."""
    field = header[CHECKSUM]
    sum_without_field = (adler32(header) & 0xFFFF) - 1 - sum(field)
    expected = int(field.strip(b"\0 "), 8)
    return (sum_without_field + len(field) * ord(" ") - expected) % ADLER_MODULUS == 0


def read_entry_members(
    tar: BinaryIO, path: str, record: IndexEntry, read: Callable[[BinaryIO, int], Content]
) -> Iterator[tuple[str, Content]]:
    """Iterate over the members of one sample; stop at a damaged header.

    The caller notices a damaged header as a missing member.

    Args:
        tar: unbuffered file.
        path: path of the tar, for errors.
        record: index entry of the sample.
        read: `read_bytes` or `read_mapped`.

    Yields:
        Name and content.

    Raises:
        ShardError: the tar cannot be read or is truncated, or a member is not a regular file.
    """
    try:
        tar.seek(record.offset)
        for name, content, is_file in read_members(tar, record.num_bytes, read):
            if not is_file:
                raise ShardError(
                    f"{path}: {record.modality} {record.key!r}: the member {name} is not a file"
                )
            yield name, content
    except EOFError as error:
        raise _truncated(path, record) from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error


def expect_member(
    members: Iterator[tuple[str, Content]], stem: str, suffixes: Sequence[str], location: str
) -> tuple[str, Content]:
    """Return the next member, checking that it has this stem and one of the suffixes.

    Raises:
        ShardError: the member has another name, or there is none.
    """
    member = next(members, None)
    if member is not None:
        found_stem, _, found_suffix = member[0].rpartition(".")
        if found_stem == stem and found_suffix in suffixes:
            return member
    names = " or ".join(f"{stem}.{suffix}" for suffix in suffixes)
    found = member[0] if member else "nothing readable"
    raise ShardError(
        f"{location}: the member {names} is missing or its header is damaged. Found {found}"
    )


def read_raw(tar: BinaryIO, path: str, record: IndexEntry) -> bytes:
    """Return the raw bytes of a sample's members in the tar.

    Raises:
        ShardError: the tar cannot be read or is truncated.
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
        f"{path} ends inside the {record.modality} {record.key!r}."
        " The tar is truncated. Pack it again"
    )
