"""An open tar and the place of a subject in it -> the subject's members, each in its turn. Damage is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from lit_hour.data.index import SubjectRecord
from lit_hour.data.tar import split_tar
from lit_hour.errors import ShardError


class ReadMemory(threading.local):
    """Memory of each thread that reading uses again and again: to get new pages from the system takes longer than to read."""

    _content = bytearray()

    def of(self, num_bytes: int) -> memoryview:
        """So many bytes, until the next call."""
        if len(self._content) < num_bytes:
            self._content = bytearray(num_bytes)
        return memoryview(self._content)[:num_bytes]


READ_MEMORY = ReadMemory()


def read_range(tar: BinaryIO, path: str, record: SubjectRecord, memory: memoryview) -> memoryview:
    """Read the bytes of a subject into memory of its size.

    Raises:
        ShardError: the tar cannot be read, or ends before.
    """
    try:
        tar.seek(record.offset)
        num_bytes = tar.readinto(memory)  # type: ignore[attr-defined]
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error
    if num_bytes < record.size:
        raise ShardError(f"{path} ends inside the {record.kind} {record.key!r}: the tar is truncated, pack it again")
    return memory


def members_of(content: memoryview, place: str) -> Iterator[tuple[str, memoryview]]:
    """Name and content of each member; at a damaged header it ends, which the caller sees as a missing member.

    Raises:
        ShardError: a member is no file.
    """
    for name, data, is_file in split_tar(content):
        if not is_file:
            raise ShardError(f"{place}: the member {name} is no file")
        yield name, data


def take_member(members: Iterator[tuple[str, memoryview]], names: Sequence[str], place: str) -> tuple[str, memoryview]:
    """The next member, which has to have one of the names.

    Raises:
        ShardError: it has another one, or there is none.
    """
    found, content = next(members, ("nothing readable", memoryview(b"")))
    if found not in names:
        raise ShardError(f"{place}: the member {' or '.join(names)} is missing or its header is damaged; found {found}")
    return found, content
