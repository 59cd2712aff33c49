"""What questions are asked about: a video, a picture, several pictures, or nothing but their own words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, get_args

from lit_hour.types import Question

Kind = Literal["video", "image", "images", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MANY_OF_KIND: dict[Kind, str] = {"video": "videos", "image": "pictures", "images": "sets of pictures", "text": "texts"}
SHARED_KINDS = ("video", "image")  # records about the same file are about one subject

_UNSAFE_IN_KEY = re.compile(r"[^A-Za-z0-9_/-]")  # a key ends at its first dot, by the rule of WebDataset


@dataclass(frozen=True)
class Subject:
    """Something to ask about, and all questions about it.

    Attributes:
        files: paths inside the folder of files: one video, one picture, several pictures, or none.
        record: number of the subject's record in the question file; 0 for a file that several records may be about.
        questions: in the order of the question file.
    """

    kind: Kind
    files: tuple[str, ...]
    record: int
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """Its name in the tar: from its path, or else from its record."""
        if self.record:
            return f"record_{self.record:08d}"
        return _UNSAFE_IN_KEY.sub("_", str(PurePosixPath(self.files[0]).with_suffix("")))

    @property
    def name(self) -> str:
        """How messages call it: by its path, or else by its key."""
        return self.key if self.record else self.files[0]


def count_kinds(kinds: Iterable[Kind]) -> dict[Kind, int]:
    """How many there are of each kind."""
    found = list(kinds)
    return {kind: found.count(kind) for kind in KINDS}


def spell_counts(num_subjects: Mapping[Kind, int]) -> str:
    """The counts in words, without the kinds of which there are none: "5 videos, 2 texts"."""
    return ", ".join(f"{num} {MANY_OF_KIND[kind]}" for kind, num in num_subjects.items() if num) or "nothing"
