"""An open tar and the place of a subject in it -> the subject's members, each in its turn. Damage is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from lit_hour.data.index import SubjectRecord
from lit_hour.data.tar import Content, read_bytes, read_members
from lit_hour.errors import ShardError


def members_of(
    tar: BinaryIO, path: str, record: SubjectRecord, read: Callable[[BinaryIO, int], Content]
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
        for name, content, is_file in read_members(tar, record.size, read):
            if not is_file:
                raise ShardError(f"{path}: {record.kind} {record.key!r}: the member {name} is no file")
            yield name, content
    except EOFError as error:
        raise _truncated(path, record) from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error


def take_member(members: Iterator[tuple[str, Content]], stem: str, suffixes: Sequence[str], place: str) -> tuple[str, Content]:
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
    raise ShardError(f"{place}: the member {names} is missing or its header is damaged; found {found}")


def read_uncut(tar: BinaryIO, path: str, record: SubjectRecord) -> bytes:
    """All members of a subject as they lie in the tar.

    Raises:
        ShardError: the tar cannot be read, or ends before.
    """
    try:
        tar.seek(record.offset)
        return read_bytes(tar, record.size)
    except EOFError as error:
        raise _truncated(path, record) from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error}") from error


def _truncated(path: str, record: SubjectRecord) -> ShardError:
    return ShardError(f"{path} ends inside the {record.kind} {record.key!r}: the tar is truncated, pack it again")
