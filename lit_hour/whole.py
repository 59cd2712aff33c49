"""A file that is there as a whole or not at all, whatever happens while it is written."""

from __future__ import annotations

from pathlib import Path

UNFINISHED_SUFFIX = ".unfinished"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, then put it there; text is UTF-8."""
    unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
    unfinished.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    unfinished.replace(path)
