"""Members of a tar, compared with tarfile."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest

from lit_hour.data.shards.mmap import MmapSlice
from lit_hour.data.shards.tar import read_bytes, read_mapped, read_members

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def make_tar(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.mode = (
                len(data) if kind == tarfile.REGTYPE else 0,
                kind,
                0o644,
            )
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def split_tar(content: bytes) -> list[tuple[str, bytes, bool]]:
    return list(read_members(io.BytesIO(content), len(content), read_bytes))


MEMBERS = {
    "a.json": b"{}",
    "sub/" + "long" * 60 + ".000000.jpg": bytes(range(256)) * 9,
    "empty.jpg": b"",
    "block.jpg": b"x" * 512,
    "x" * 100: b"y" * 513,
    "ümläut.jpg": b"z",
}


def test_read_members_yields_names_and_content_in_order() -> None:
    assert [
        (name, data) for name, data, is_file in split_tar(make_tar(MEMBERS)) if is_file
    ] == list(MEMBERS.items())


def test_read_members_needs_no_end_of_archive() -> None:
    content = make_tar({"a": b"1", "b": b"2"})[:2048]
    assert split_tar(content) == [("a", b"1", True), ("b", b"2", True)]
    assert split_tar(content + content) == 2 * split_tar(content)


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_read_members_flags_members_that_are_not_files(kind: bytes) -> None:
    assert [is_file for _, _, is_file in split_tar(make_tar({"a": b""}, kind))] == [False]


def test_every_corrupt_byte_of_a_header_ends_the_iteration() -> None:
    content = make_tar({"a": b"1", "b": b"2", "c": b"3"})
    for offset in range(1024, 1536):
        for value in (content[offset] ^ 1, content[offset] ^ 0x80):
            damaged = content[:offset] + bytes([value]) + content[offset + 1 :]
            found = [name for name, _, _ in split_tar(damaged)]
            # NUL and space both end a checksum
            assert found == ["a"] or (148 <= offset - 1024 < 156 and found == ["a", "b", "c"]), (
                offset
            )


def test_noise_yields_no_members() -> None:
    noise = random.Random(0)
    assert not any(split_tar(noise.randbytes(2048)) for _ in range(500))
    content = make_tar(MEMBERS)
    assert [len(split_tar(content[:end])) for end in (0, 511, 512, 513)] == [0, 0, 0, 0]


class ShortReads(io.FileIO):
    """A file that returns at most seven bytes per read."""

    def read(self, num_bytes: int | None = -1) -> bytes:
        return super().read(min(num_bytes or 0, 7))

    def readinto(self, buffer: WriteableBuffer) -> int:
        return super().readinto(memoryview(buffer)[:7])


def test_short_reads_are_completed(tmp_path: Path) -> None:
    content = make_tar(MEMBERS)
    (tmp_path / "a.tar").write_bytes(content)
    with ShortReads(tmp_path / "a.tar") as tar:
        assert list(read_members(tar, len(content), read_bytes)) == split_tar(content)
    with ShortReads(tmp_path / "a.tar") as tar:
        mapped = list(read_members(tar, len(content), read_mapped))
    assert [(name, bytes(part), is_file) for name, part, is_file in mapped] == split_tar(content)


@pytest.mark.parametrize("read", [read_bytes, read_mapped])
def test_truncated_tar_raises_eof_error(
    read: Callable[[BinaryIO, int], bytes | MmapSlice], tmp_path: Path
) -> None:
    content = make_tar({"a": b"1" * 600, "b": b"2"})
    for end in (100, 512, 1000, 1536):
        (tmp_path / "a.tar").write_bytes(content[:end])
        with (tmp_path / "a.tar").open("rb", buffering=0) as tar, pytest.raises(EOFError):
            list(read_members(tar, 3072, read))
