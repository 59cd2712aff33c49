"""Read and write the members of one stored sample in a tar.

`tarfile` reads the same at a fifth of the speed of a disk (`make benchmark`, topic shards).

Source: the tar format of POSIX.1-1988 (ustar), and GNU tar's members for long names.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TypeVar

from lit_hour.data.shards.mmap import MmapSlice
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.errors import ShardError

BLOCK_BYTES = 512
CHECKSUM = slice(148, 156)  # of a header: the sum of its bytes with eight spaces in this field
READ_CHUNK_BYTES = 2**20  # fits into a processor's cache

Content = TypeVar("Content", bytes, MmapSlice)


def write_member(stream: BinaryIO, name: str, parts: Sequence[bytes | memoryview]) -> int:
    """Write a member from parts, without joining them, and return its size in the tar.

    All members have the same time and owner, so that the same content gives the same bytes.
    """
    member = tarfile.TarInfo(name)
    member.size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
    member.mode = 0o644
    header, padding = member.tobuf(tarfile.GNU_FORMAT), bytes(-member.size % BLOCK_BYTES)
    for part in (header, *parts, padding):
        stream.write(part)
    return len(header) + member.size + len(padding)


def read_members(
    tar: BinaryIO, num_bytes: int, read: Callable[[BinaryIO, int], Content]
) -> Iterator[tuple[str, Content, bool]]:
    """Yield name, content and whether it is a regular file, for each member of the next bytes.

    A header with a wrong checksum ends the iteration. Each member is read by a call of its own from
    an unbuffered file, straight into its memory, while the system reads ahead: one and a half times
    as fast as reading all bytes and cutting them up.

    Args:
        tar: unbuffered file, at the start of a header.
        num_bytes: how many bytes to read.
        read: `read_bytes` or `read_mapped`.

    Raises:
        EOFError: the file ends earlier.
    """
    left, long_name, padding = num_bytes, "", 0
    while left >= padding + BLOCK_BYTES:
        header = read_bytes(tar, padding + BLOCK_BYTES)[padding:]
        left -= padding + BLOCK_BYTES
        field = header[CHECKSUM]
        try:
            size, checksum = int(header[124:135], 8), int(field.strip(b"\0 "), 8)
            name = long_name or header[:100].rstrip(b"\0").decode()
        except ValueError:
            return
        if sum(header) - sum(field) + len(field) * ord(" ") != checksum or size > left:
            return
        kind, content = header[156:157], read(tar, size)
        left, padding = left - size, -size % BLOCK_BYTES
        long_name = bytes(content).rstrip(b"\0").decode(errors="replace") if kind == b"L" else ""
        if kind != b"L":
            yield name, content, kind in (b"0", b"\0")


def read_bytes(tar: BinaryIO, num_bytes: int) -> bytes:
    """Read exactly this many bytes; a network disk may return fewer per call.

    Raises:
        EOFError: the file ends earlier.
    """
    content = tar.read(num_bytes)
    while len(content) < num_bytes:
        more = tar.read(num_bytes - len(content))
        if not more:
            raise EOFError
        content += more
    return content


def read_mapped(tar: BinaryIO, num_bytes: int) -> MmapSlice:
    """Like `read_bytes`, but memory-mapped.

    All bytes are read once and discarded, so that a truncated file or a failing disk raises an
    error
    here: a process that touches a mapped page which cannot be read is killed by SIGBUS. The pages
    stay in the system's page cache.

    Raises:
        EOFError: the file ends earlier.
    """
    start, left = tar.tell(), num_bytes
    if hasattr(os, "posix_fadvise"):  # otherwise the system reads only a few pages ahead
        os.posix_fadvise(tar.fileno(), start, num_bytes, os.POSIX_FADV_WILLNEED)
    chunk = memoryview(bytearray(min(num_bytes, READ_CHUNK_BYTES)))
    while left:
        num_read = tar.readinto(chunk[:left])  # type: ignore[attr-defined]
        if not num_read:
            raise EOFError
        left -= num_read
    return MmapSlice(os.dup(tar.fileno()), start, num_bytes)


def read_entry_members(
    tar: BinaryIO, path: str, entry: IndexEntry, read: Callable[[BinaryIO, int], Content]
) -> Iterator[tuple[str, Content]]:
    """Yield name and content of each member of a stored sample.

    A corrupt header ends the iteration.

    Args:
        tar: unbuffered file.
        path: of the tar, for errors.
        entry: of the sample in the index.
        read: `read_bytes` or `read_mapped`.

    Raises:
        ShardError: the tar cannot be read or is truncated, or a member is not a regular file.
    """
    try:
        tar.seek(entry.offset)
        for name, content, is_file in read_members(tar, entry.num_bytes, read):
            if not is_file:
                raise ShardError(
                    f"{path}: {entry.modality} {entry.key!r}: {name} is not a regular file."
                )
            yield name, content
    except EOFError as error:
        raise _truncated(path, entry) from error
    except OSError as error:
        raise ShardError(f"Cannot read {path}: {error}.") from error


def starts_member(content: bytes, key: str) -> bool:
    """Return whether bytes begin with the header of a member of a sample."""
    try:
        member = tarfile.TarInfo.frombuf(content[:BLOCK_BYTES], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    has_extended_header = member.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)
    return has_extended_header or member.name.startswith(f"{key}.")


def expect_member(
    members: Iterator[tuple[str, Content]], stem: str, suffixes: Sequence[str], location: str
) -> tuple[str, Content]:
    """Return the next member, which must have this stem and one of the suffixes.

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
    raise ShardError(f"{location}: {names} is missing or has a corrupt header. Found {found}.")


def read_raw(tar: BinaryIO, path: str, entry: IndexEntry) -> bytes:
    """Return all members of a stored sample as the bytes of the tar.

    Raises:
        ShardError: the tar cannot be read or is truncated.
    """
    try:
        tar.seek(entry.offset)
        return read_bytes(tar, entry.num_bytes)
    except EOFError as error:
        raise _truncated(path, entry) from error
    except OSError as error:
        raise ShardError(f"Cannot read {path}: {error}.") from error


def _truncated(path: str, entry: IndexEntry) -> ShardError:
    return ShardError(
        f"{path} is truncated inside the {entry.modality} {entry.key!r}. Pack the shard again."
    )
