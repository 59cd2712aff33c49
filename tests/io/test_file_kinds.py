import io
import re
import tarfile

import pytest

from lit_hour.io.file_kinds import HEAD_BYTES, describe_wrong_kind

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4c4c\nsize 84977953\n"


def tar_bytes() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "is empty"),
        (POINTER, "Git LFS pointer.*git lfs pull"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "web page"),
        (b"<html><head>", "web page"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"PK\x03\x04", "a ZIP archive"),
        (tar_bytes(), "a tar archive"),
        (bytes(2000), "only zero bytes"),
    ],
)
def test_wrong_kinds_are_named(content: bytes, kind: str) -> None:
    assert re.search(kind, describe_wrong_kind(content[:HEAD_BYTES]))


def test_unknown_content_is_not_named() -> None:
    assert describe_wrong_kind(b"\x00\x00\x00\x18ftypmp42") == ""
    assert describe_wrong_kind(b'{"video": "a.mp4"}') == ""
