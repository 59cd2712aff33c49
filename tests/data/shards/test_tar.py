"""Members of a tar, as Python's own tarfile finds them."""

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


def tar_of(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
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


def test_members_come_in_order_with_their_content() -> None:
    assert [(name, data) for name, data, is_file in split_tar(tar_of(MEMBERS)) if is_file] == list(
        MEMBERS.items()
    )


def test_a_run_of_members_without_the_end_of_the_archive_is_enough() -> None:
    content = tar_of({"a": b"1", "b": b"2"})[:2048]
    assert split_tar(content) == [("a", b"1", True), ("b", b"2", True)]
    assert split_tar(content + content) == 2 * split_tar(content)


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_what_is_no_file_is_told(kind: bytes) -> None:
    assert [is_file for _, _, is_file in split_tar(tar_of({"a": b""}, kind))] == [False]


def test_every_damaged_byte_of_a_header_ends_it() -> None:
    content = tar_of({"a": b"1", "b": b"2", "c": b"3"})
    for place in range(1024, 1536):
        for value in (content[place] ^ 1, content[place] ^ 0x80):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            found = [name for name, _, _ in split_tar(damaged)]
            # NUL and space end a checksum alike
            assert found == ["a"] or (148 <= place - 1024 < 156 and found == ["a", "b", "c"]), place


def test_noise_is_never_taken_for_members() -> None:
    noise = random.Random(0)
    assert not any(split_tar(noise.randbytes(2048)) for _ in range(500))
    content = tar_of(MEMBERS)
    assert [len(split_tar(content[:end])) for end in (0, 511, 512, 513)] == [0, 0, 0, 0]


class Slow(io.FileIO):
    """Gives seven bytes at a time."""

    def read(self, num_bytes: int | None = -1) -> bytes:
        return super().read(min(num_bytes or 0, 7))

    def readinto(self, place: WriteableBuffer) -> int:
        return super().readinto(memoryview(place)[:7])


def test_a_file_that_gives_little_at_a_time_is_read_to_its_end(tmp_path: Path) -> None:
    content = tar_of(MEMBERS)
    (tmp_path / "a.tar").write_bytes(content)
    with Slow(tmp_path / "a.tar") as tar:
        assert list(read_members(tar, len(content), read_bytes)) == split_tar(content)
    with Slow(tmp_path / "a.tar") as tar:
        mapped = list(read_members(tar, len(content), read_mapped))
    assert [(name, bytes(part), is_file) for name, part, is_file in mapped] == split_tar(content)


@pytest.mark.parametrize("read", [read_bytes, read_mapped])
def test_a_file_that_ends_too_early_is_told_from_a_damaged_one(
    read: Callable[[BinaryIO, int], bytes | MmapSlice], tmp_path: Path
) -> None:
    content = tar_of({"a": b"1" * 600, "b": b"2"})
    for end in (100, 512, 1000, 1536):
        (tmp_path / "a.tar").write_bytes(content[:end])
        with (tmp_path / "a.tar").open("rb", buffering=0) as tar, pytest.raises(EOFError):
            list(read_members(tar, 3072, read))
