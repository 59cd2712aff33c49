"""Anonymous files in memory, which the system frees with the last process that has them open."""

from __future__ import annotations

import os
from io import FileIO


def memory_file(content: bytes) -> FileIO:
    """Return an open file with this content, at its start; `/proc/self/fd/N` is its path."""
    stream = FileIO(os.memfd_create("lit_hour"), "r+")
    left = memoryview(content)
    while left:
        left = left[stream.write(left) :]
    stream.seek(0)
    return stream
