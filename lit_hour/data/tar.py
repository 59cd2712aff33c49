"""A subject's part of a tar in, its members out; and back. `tarfile` reads the same at a fifth of the speed of a disk.

Source: the tar format of POSIX.1-1988 (ustar), and GNU tar's members for long names.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TypeVar
from zlib import adler32

BLOCK_BYTES = 512
CHECKSUM = slice(148, 156)  # the sum of the header's bytes, in which this field counts as eight spaces
ADLER_MODULUS = 65521

Content = TypeVar("Content", bytes, memoryview)


def write_member(stream: BinaryIO, name: str, parts: Sequence[bytes | memoryview]) -> int:
    """Write a member from parts that are not copied first; how many bytes of the tar it takes.

    Every member has the same time and owner, so that the same content gives the same bytes.
    """
    member = tarfile.TarInfo(name)
    member.size, member.mode = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts), 0o644
    header, filling = member.tobuf(tarfile.GNU_FORMAT), bytes(-member.size % BLOCK_BYTES)
    for part in (header, *parts, filling):
        stream.write(part)
    return len(header) + member.size + len(filling)


def split_tar(content: Content) -> Iterator[tuple[str, Content, bool]]:
    """Name and content of each member, a part of what was given, and whether it is a file.

    At what is no sound header it ends.
    """
    position, long_name = 0, ""
    while position + BLOCK_BYTES <= len(content):
        header = bytes(content[position : position + BLOCK_BYTES])
        start = position + BLOCK_BYTES
        try:
            size = int(header[124:135], 8)
            is_sound = _is_sound(header)
            name = long_name or header[:100].rstrip(b"\0").decode()
        except ValueError:
            return
        if not is_sound or start + size > len(content):
            return
        kind, data = header[156:157], content[start : start + size]
        long_name = bytes(data).rstrip(b"\0").decode(errors="replace") if kind == b"L" else ""
        if kind != b"L":
            yield name, data, kind in (b"0", b"\0")
        position = start + -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _is_sound(header: bytes) -> bool:
    """Whether a header has its checksum. The lower half of Adler-32 is one more than the sum of the bytes, and quick."""
    stored = int(header[CHECKSUM].strip(b"\0 "), 8)
    others = adler32(header[CHECKSUM.stop :], adler32(header[: CHECKSUM.start])) & 0xFFFF
    return others == (1 + stored - 8 * ord(" ")) % ADLER_MODULUS
