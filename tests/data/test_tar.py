"""Members of a tar, as Python's own tarfile finds them."""

import io
import random
import tarfile

import pytest

from lit_hour.data.tar import split_tar


def tar_of(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.mode = len(data) if kind == tarfile.REGTYPE else 0, kind, 0o644
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


MEMBERS = {
    "a.json": b"{}",
    "sub/" + "long" * 60 + ".000000.jpg": bytes(range(256)) * 9,
    "empty.jpg": b"",
    "block.jpg": b"x" * 512,
    "x" * 100: b"y" * 513,
    "ümläut.jpg": b"z",
}


def test_members_come_in_order_with_their_content() -> None:
    assert [(name, data) for name, data, is_file in split_tar(tar_of(MEMBERS)) if is_file] == list(MEMBERS.items())


def test_a_run_of_members_without_the_end_of_the_archive_is_enough() -> None:
    content = tar_of({"a": b"1", "b": b"2"})[:2048]
    assert list(split_tar(content)) == [("a", b"1", True), ("b", b"2", True)]
    assert list(split_tar(content + content)) == 2 * list(split_tar(content))


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
    assert not any(list(split_tar(noise.randbytes(2048))) for _ in range(500))
    content = tar_of(MEMBERS)
    assert [len(list(split_tar(content[:end]))) for end in (0, 511, 512, 513)] == [0, 0, 0, 0]
