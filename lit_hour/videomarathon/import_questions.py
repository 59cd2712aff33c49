"""A question file from elsewhere and folders of videos in, a folder that `pack` takes out.

    OUT/videos/NAME        a link to each video that was found
    OUT/questions.json     the questions about them, in our own form
    OUT/missing.txt        the videos that were not found

Read are our own form and LLaVA's (the published file of VideoMarathon), as .json or .jsonl, and .csv with our keys as columns.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

from lit_hour.data.questions.file import read_questions
from lit_hour.data.questions.record import question_record
from lit_hour.errors import QuestionError
from lit_hour.io.atomic import whole

OPTION_SEPARATOR, INTERVAL_SEPARATOR = (
    "|",
    ";",
)  # in a cell of a table: "a pan | a plate", "62-75.5; 80-91"


@dataclass(frozen=True)
class ImportResult:
    """What was brought in, and what is `missing`."""

    num_videos: int
    num_questions: int
    missing: tuple[str, ...]


def import_questions(
    file: Path, roots: Sequence[Path], out: Path, max_missing: int
) -> ImportResult:
    """Find the video of each question, and write the questions whose video is there.

    Args:
        roots: folders to look for a video in, the first that has it counts: under its whole name, or else under the last
            part of it.
        out: folder to be made.
        max_missing: videos that may be missing.

    Raises:
        QuestionError: the file cannot be read, asks about something else than videos, more videos are missing than may be,
            or `out` has another video of the same name.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        subjects = read_questions(_as_json_lines(file, out))
        if others := [subject.name for subject in subjects if subject.kind != "video"]:
            raise QuestionError(
                f"{file}: {others[0]} is no video, but only videos are looked for; pack takes the file as it is"
            )
        found = {subject.files[0]: _find(subject.files[0], roots) for subject in subjects}
        missing = tuple(name for name, path in found.items() if path is None)
        with whole(out / "missing.txt") as missing_file:
            missing_file.writelines(f"{name}\n" for name in missing)
        if len(missing) > max_missing:
            raise QuestionError(
                f"{len(missing)} of {len(found)} videos are in none of {', '.join(map(str, roots))}, the first is {missing[0]};"
                f" {out / 'missing.txt'} lists them. videomarathon.max_missing_videos={len(missing)} goes on without them"
            )
        for name, path in found.items():
            if path is not None:
                _link(out / "videos" / name, path)
        records = [
            {"video": subject.files[0], **question_record(question)}
            for subject in subjects
            if found[subject.files[0]] is not None
            for question in subject.questions
        ]
        with whole(out / "questions.json") as question_file:
            question_file.write("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")
    except OSError as error:
        raise QuestionError(f"{out} cannot be filled: {error}") from error
    return ImportResult(len(found) - len(missing), len(records), missing)


def report_import(out: Path, imported: ImportResult) -> str:
    """What was brought in, and what to do with it."""
    missing = (
        f"; {len(imported.missing)} videos are missing, see {out / 'missing.txt'}"
        if imported.missing
        else ""
    )
    folder = quote(str(out))
    return (
        f"{out}: {imported.num_videos} videos, {imported.num_questions} questions{missing}\n"
        f"to pack them: python -m lit_hour pack {folder}/videos {folder}/questions.json {folder}/shards"
    )


def _find(name: str, roots: Sequence[Path]) -> Path | None:
    """Where a video lies."""
    candidates = (root / part for part in (name, PurePosixPath(name).name) for root in roots)
    return next((path for path in candidates if path.is_file()), None)


def _link(link: Path, video: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)  # it may lead to where a video was once
        os.symlink(video.resolve(), link)
    elif link.resolve() != video.resolve():
        raise QuestionError(
            f"{link} is {link.resolve()} and not {video.resolve()}: import into another folder"
        )


def _as_json_lines(file: Path, out: Path) -> Path:
    """The file itself, or the rows of a table as records of our own form."""
    if file.suffix != ".csv":
        return file
    records = out / "records.jsonl"
    try:
        with file.open(encoding="utf-8-sig", newline="") as table, whole(records) as record_file:
            record_file.writelines(json.dumps(record) + "\n" for record in _read_table(table, file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise QuestionError(f"{file} cannot be read as a table: {error}") from error
    return records


def _read_table(table: Any, file: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(csv.DictReader(table, strict=True), start=1):
        if None in row or None in row.values():
            raise QuestionError(f"{file}: row {number} has not as many cells as there are columns")
        record: dict[str, Any] = {key: cell for key, cell in row.items() if cell.strip()}
        if "options" in record:
            record["options"] = record["options"].split(OPTION_SEPARATOR)
        if "evidence" in record:
            record["evidence"] = _read_evidence(record["evidence"], f"{file}: row {number}")
        yield record


def _read_evidence(cell: str, place: str) -> list[list[float]]:
    try:
        return [
            [float(seconds) for seconds in interval.split("-")]
            for interval in cell.split(INTERVAL_SEPARATOR)
        ]
    except ValueError as error:
        raise QuestionError(
            f"{place}: evidence is written as seconds, such as 62-75.5; 80-91, not {cell!r}"
        ) from error
