"""Find the videos of a question file in folders (`VideoFolders.find`), by path and not by guessing.

Names are compared in Unicode's NFC, with or without suffix, and may be absolute or have
backslashes. A video is that file of which the name is the path or the end of it, or of which the
path in its folder is the end of the name. Several such files, or several names for one file, are
ambiguous.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lit_hour.errors import QuestionError
from lit_hour.media.video_probe import VIDEO_SUFFIXES

Parts = tuple[str, ...]


@dataclass(frozen=True)
class VideoFile:
    """A video in a folder.

    Attributes:
        path: of the file.
        parts: folders and name inside the folder of videos, in NFC.
        outer_parts: of that folder, in NFC.
    """

    path: Path
    parts: Parts
    outer_parts: Parts


@dataclass(frozen=True)
class Match:
    """The file of a video, or why there is none.

    Attributes:
        candidates: files that it might be; empty if it is found or missing.
        is_partial: the file's path in its folder is only the end of the name.
    """

    path: Path | None
    candidates: tuple[Path, ...] = ()
    is_partial: bool = False


@dataclass
class VideoFolders:
    """The videos in some folders, at any depth."""

    roots: Sequence[Path]
    _by_stem: dict[str, list[VideoFile]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """List the folders once; raise QuestionError if a folder does not exist."""
        for root in self.roots:
            if not root.is_dir():
                raise QuestionError(f"{root} is not a folder. Give a folder of videos.")
            outer = _normalize(str(root.resolve())).split("/")[1:]
            for folder, _, names in os.walk(root, followlinks=True):
                inner = _normalize(os.path.relpath(folder, root)).split("/")
                inner = [] if inner == ["."] else inner
                for name in names:
                    parts = (*inner, _normalize(name))
                    video = VideoFile(Path(folder, name), parts, tuple(outer))
                    self._by_stem.setdefault(stem(parts[-1]), []).append(video)

    def find(self, names: Iterable[str]) -> dict[str, Match]:
        """Return the file of each name.

        Args:
            names: as `clean_name` returns them.
        """
        found = {name: self._find_one(name) for name in names}
        claims = Counter(match.path for match in found.values() if match.path is not None)
        return {
            name: Match(None, (match.path,))
            if match.path is not None and match.is_partial and claims[match.path] > 1
            else match
            for name, match in found.items()
        }

    def find_by_id(self, ids: Iterable[str]) -> Match:
        """Return the only file that is named after one of the ids."""
        for identifier in ids:
            files = self._by_stem.get(_normalize(identifier), [])
            if len(files) == 1:
                return Match(files[0].path)
            if files:
                return Match(None, tuple(file.path for file in files))
        return Match(None)

    def _find_one(self, name: str) -> Match:
        parts = tuple(_normalize(name).split("/"))
        candidates = self._by_stem.get(stem(parts[-1]), [])
        same_suffix = [file for file in candidates if file.parts[-1] == parts[-1]]
        for files in (same_suffix, candidates):
            for root in self.roots:  # the path inside a folder, in the order of the folders
                for file in files:
                    is_same = len(parts) == len(file.parts) and _ends_with(parts, file.parts)
                    if is_same and file.path.is_relative_to(root):
                        return Match(file.path)
            whole = [file for file in files if _ends_with((*file.outer_parts, *file.parts), parts)]
            if whole:
                return _unique(whole, is_partial=False)
        ends = [file for file in candidates if _ends_with(parts, file.parts)]
        longest = max((len(file.parts) for file in ends), default=0)
        ends = [file for file in ends if len(file.parts) == longest]
        exact = [file for file in ends if file.parts[-1] == parts[-1]]
        return _unique(exact or ends, is_partial=True)


def clean_name(name: str) -> str:
    """Return the path of a video as one inside a folder: relative, with slashes, without `..`."""
    name = name.strip()
    if "/" not in name or re.match(r"[A-Za-z]:\\|\\\\", name):
        name = name.replace("\\", "/")
    name = re.sub(r"\A[A-Za-z]:/|\A\w+://", "", name)
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)


def stem(name: str) -> str:
    """Return the name of a file without the suffix of a video."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else name


def link_name(name: str, path: Path) -> str:
    """Return the name under which a found video is linked: with its suffix."""
    if PurePosixPath(name).suffix.lower() == path.suffix.lower():
        return name
    return str(PurePosixPath(name).with_name(stem(PurePosixPath(name).name) + path.suffix))


def _unique(files: Sequence[VideoFile], *, is_partial: bool) -> Match:
    paths = {file.path.resolve(): file.path for file in files}
    if len(paths) == 1:
        return Match(files[0].path, is_partial=is_partial)
    return Match(None, tuple(paths.values()))


def _ends_with(parts: Parts, end: Parts) -> bool:
    """Return whether a path ends with another one; suffixes of videos do not count."""
    if not end or len(end) > len(parts) or stem(parts[-1]) != stem(end[-1]):
        return False
    return parts[len(parts) - len(end) : -1] == end[:-1]


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFC", text)
