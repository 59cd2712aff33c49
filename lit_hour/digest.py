"""Files in, a number out by which their content is known again."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    if path.is_dir():
        parts = [f"{digest(file)}  {file.relative_to(path)}\n" for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
