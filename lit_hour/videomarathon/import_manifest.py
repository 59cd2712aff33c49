"""The manifest of an import: a CSV file with the origin and the status of each video."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lit_hour.errors import QuestionError
from lit_hour.io.atomic import atomic_write
from lit_hour.videomarathon.video_lookup import Match, stem

COLUMNS = ("id", "url", "source", "path", "status", "file", "questions")
_YOUTUBE_ID = re.compile(r"(?:[?&]v=|youtu\.be/|/shorts/|/embed/)([\w-]{11})")


@dataclass
class VideoRequest:
    """A video that a question file names.

    Attributes:
        name: path inside the folder of videos.
        record_id: id of its first record, "" if there is none.
        url: "" if the file gives none.
        source: "" if the file gives none.
    """

    name: str
    record_id: str
    url: str
    source: str
    num_questions: int = 0

    def ids(self) -> Iterator[str]:
        """Return the ids that a file may be named after: of the name, the URL and the record."""
        yield stem(PurePosixPath(self.name).name)
        if link := _YOUTUBE_ID.search(self.url):
            yield link[1]
        if self.record_id:
            yield self.record_id


def write_manifest(
    file: Path,
    requests: Mapping[str, VideoRequest],
    matches: Mapping[str, Match],
    names: Mapping[str, str],
) -> None:
    """Write a row for each video; its status is found, missing or ambiguous.

    Args:
        file: CSV file to write.
        requests: the videos by name.
        matches: their files.
        names: under which they are linked.
    """
    with atomic_write(file) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, request in requests.items():
            match = matches[name]
            status = "found" if match.path else "ambiguous" if match.candidates else "missing"
            writer.writerow(
                [
                    next(request.ids()),
                    request.url,
                    request.source,
                    names.get(name, name),
                    status,
                    match.path or "",
                    request.num_questions,
                ]
            )


def read_found(file: Path) -> set[str] | None:
    """Return the names of the videos that a manifest lists as found; None if there is none.

    Raises:
        QuestionError: the file is no manifest.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise QuestionError(
                    f"{file} is not a manifest of `lit-hour import`. Give another name, so that it"
                    " is not overwritten."
                )
            return {str(PurePosixPath(row["path"])) for row in rows if row["status"] == "found"}
    except FileNotFoundError:
        return None
