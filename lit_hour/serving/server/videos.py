"""The folders whose videos may be asked about, and a path that a client names -> a file in one of them, or a refusal."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from lit_hour.errors import ServerError
from lit_hour.serving.server.refusal import RefusedError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".3gp")
MAX_LISTED = 500

_OUTSIDE = "this is no path under the folders that the server was given with --videos, or it goes through a link or '..'"


class Folders:
    """Folders that were allowed when the server was started."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Look at the folders.

        Raises:
            ServerError: one is no folder.
        """
        for folder in folders:
            if not folder.is_dir():
                raise ServerError(f"--videos {folder} is no folder: give one that holds videos")
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))

    def find(self, url: str) -> Path:
        """The file that a `file:///...` URL names.

        Raises:
            RefusedError: 403 for anything that is not plainly inside of an allowed folder, whether it is there or not;
                404 for a file inside that is not there.
        """
        path = _path_of(url)
        for folder in self.folders:
            if path.is_relative_to(folder) and path != folder:
                return _plain_file(folder, path)
        raise RefusedError(403, _OUTSIDE)

    def list(self) -> list[tuple[Path, str]]:
        """Videos in the folders by their names, each with what to call it, at most `MAX_LISTED`."""
        listed: list[tuple[Path, str]] = []
        for folder in self.folders:
            for path in _walk(folder):
                listed.append((path, str(path.relative_to(folder))))
                if len(listed) == MAX_LISTED:
                    return listed
        return listed


def _path_of(url: str) -> Path:
    try:
        parts = urlsplit(url)
        text = unquote(parts.path, errors="strict")
        text.encode()
    except ValueError as error:
        raise RefusedError(403, _OUTSIDE) from error
    is_plain = parts.scheme == "file" and parts.netloc in ("", "localhost") and not parts.query and not parts.fragment
    pure = PurePosixPath(text)
    if not is_plain or "\0" in text or not pure.is_absolute() or ".." in pure.parts or text.startswith("//"):
        raise RefusedError(403, _OUTSIDE)
    return Path(pure)


def _plain_file(folder: Path, path: Path) -> Path:
    """A file below a folder, on the way to which no link lies."""
    place = folder
    try:
        for part in path.relative_to(folder).parts:
            place /= part
            mode = place.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise RefusedError(403, _OUTSIDE)
    except OSError as error:
        raise RefusedError(404, f"there is no file {path} that can be read") from error
    if not stat.S_ISREG(mode):
        raise RefusedError(404, f"{path} is no file")
    return path


def _walk(folder: Path) -> Iterator[Path]:
    for inside, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(inside, name)
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_symlink():
                yield path
