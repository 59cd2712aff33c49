"""SHA-256 of files and folders."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hash_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names."""
    if path.is_dir():
        parts = [
            f"{hash_path(file)}  {file.relative_to(path)}\n"
            for file in sorted(path.rglob("*"))
            if file.is_file()
        ]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
