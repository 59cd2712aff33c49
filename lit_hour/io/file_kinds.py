"""Name the kind of a file by its first bytes, for errors about a file of the wrong kind.

A download that failed often leaves something else under the name of the file: a Git LFS pointer, a
web page, or nothing. `describe_wrong_kind` is the entry point.
"""

from __future__ import annotations

HEAD_BYTES = 512  # that `describe_wrong_kind` needs at most

_DOWNLOAD_AGAIN = "Download the file again"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<script")
_MAGIC_BYTES = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"GIF8": "a GIF image",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"(\xb5/\xfd": "a Zstandard archive",
    b"%PDF-": "a PDF document",
    b"PAR1": "a parquet file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
}


def describe_wrong_kind(head: bytes) -> str:
    """Return what a file is and what to do, such as "is a web page. ..."; "" if unknown.

    The kinds that a caller can read have to be tried before.

    Args:
        head: the first `HEAD_BYTES` of the file, or fewer.
    """
    if not head:
        return f"is empty (0 bytes). {_DOWNLOAD_AGAIN}."
    if head.startswith(_LFS_POINTER):
        return (
            "is a Git LFS pointer, not the file itself. Run `git lfs pull`, or download the file"
            " from its page."
        )
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_WEB_PAGE):
        return (
            f"is a web page, such as that of a failed download or a login. {_DOWNLOAD_AGAIN}, with"
            " the address of the file itself."
        )
    for magic, kind in _MAGIC_BYTES.items():
        if head.startswith(magic):
            return f"is {kind}, whatever its name says. Give a file of the right kind."
    if head[257:262] == b"ustar":
        return "is a tar archive, whatever its name says. Unpack it."
    if not head.strip(b"\0"):
        return f"has only zero bytes: its download was interrupted. {_DOWNLOAD_AGAIN}."
    return ""
