"""Import a foreign question file and find its videos (`import_questions`), for `lit-hour pack`.

    OUT/videos/NAME        a link to each video that was found
    OUT/questions.json     the questions about them, in this project's format
    OUT/missing.txt        the videos that were not found

Reads this project's format and LLaVA's (the published file of VideoMarathon) as .json or .jsonl,
and .csv files whose columns are this project's keys.
"""

from __future__ import annotations

import csv
import filecmp
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
from lit_hour.io.atomic import atomic_write

# In a cell of a table: "a pan | a plate", "62-75.5; 80-91".
OPTION_SEPARATOR, INTERVAL_SEPARATOR = "|", ";"


@dataclass(frozen=True)
class ImportResult:
    """Numbers of imported videos and questions, and the names of missing videos."""

    num_videos: int
    num_questions: int
    missing: tuple[str, ...]


def import_questions(
    file: Path, roots: Sequence[Path], out: Path, max_missing: int
) -> ImportResult:
    """Find the video of each question, and write the questions about videos that were found.

    Args:
        file: question file.
        roots: folders of videos. A video is searched by its whole path in every folder, then by its
            file name; the first match counts.
        out: folder to create.
        max_missing: number of videos that may be missing.

    Raises:
        QuestionError: the file cannot be read, has questions about images or text, too many videos
            are missing, or `out` has another video of the same name.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        samples = read_questions(_as_json_lines(file, out))
        if others := [sample.name for sample in samples if sample.modality != "video"]:
            raise QuestionError(
                f"{file}: {others[0]} is not a video, and only videos can be imported."
                " `lit-hour pack` takes the file as it is."
            )
        found = {sample.files[0]: _find_video(sample.files[0], roots) for sample in samples}
        missing = tuple(name for name, path in found.items() if path is None)
        with atomic_write(out / "missing.txt") as missing_file:
            missing_file.writelines(f"{name}\n" for name in missing)
        if len(missing) > max_missing:
            raise QuestionError(
                f"{len(missing)} of {len(found)} videos are missing in"
                f" {', '.join(map(str, roots))}, first {missing[0]} ({out / 'missing.txt'} lists"
                f" them). Set videomarathon.max_missing_videos={len(missing)} to skip them."
            )
        for name, path in found.items():
            if path is not None:
                _link(out / "videos" / name, path)
        records = [
            {"video": sample.files[0], **question_record(question)}
            for sample in samples
            if found[sample.files[0]] is not None
            for question in sample.questions
        ]
        with atomic_write(out / "questions.json") as question_file:
            question_file.write("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")
    except OSError as error:
        raise QuestionError(f"Cannot write to {out}: {error}.") from error
    return ImportResult(len(found) - len(missing), len(records), missing)


def format_import_report(out: Path, result: ImportResult) -> str:
    """Return what was imported, and the command that packs it."""
    missing = ""
    if result.missing:
        missing = f"; {len(result.missing)} videos are missing, see {out / 'missing.txt'}"
    folder = quote(str(out))
    return (
        f"{out}: {result.num_videos} videos, {result.num_questions} questions{missing}\n"
        f"to pack them: lit-hour pack {folder}/videos {folder}/questions.json {folder}/shards"
    )


def _find_video(name: str, roots: Sequence[Path]) -> Path | None:
    candidates = (root / part for part in (name, PurePosixPath(name).name) for root in roots)
    return next((path for path in candidates if path.is_file()), None)


def _link(link: Path, video: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)  # a dangling link to a former location
        os.symlink(video.resolve(), link)
    elif link.resolve() != video.resolve() and not filecmp.cmp(link, video, shallow=False):
        raise QuestionError(
            f"{link} is a link to {link.resolve()} and not to {video.resolve()}. Import into"
            " another folder."
        )


def _as_json_lines(file: Path, out: Path) -> Path:
    """Return the file itself, or for a table a file of its rows as JSON records."""
    if file.suffix != ".csv":
        return file
    records = out / "records.jsonl"
    try:
        with (
            file.open(encoding="utf-8-sig", newline="") as table,
            atomic_write(records) as record_file,
        ):
            record_file.writelines(json.dumps(record) + "\n" for record in _read_table(table, file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise QuestionError(f"{file} cannot be read as a table: {error}.") from error
    return records


def _read_table(table: Any, file: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(csv.DictReader(table, strict=True), start=1):
        if None in row or None in row.values():
            raise QuestionError(
                f"{file}: row {number} must have as many cells as there are columns."
            )
        record: dict[str, Any] = {key: cell for key, cell in row.items() if cell.strip()}
        if "options" in record:
            record["options"] = record["options"].split(OPTION_SEPARATOR)
        if "evidence" in record:
            record["evidence"] = _parse_evidence(record["evidence"], f"{file}: row {number}")
        yield record


def _parse_evidence(cell: str, location: str) -> list[list[float]]:
    try:
        return [
            [float(seconds) for seconds in interval.split("-")]
            for interval in cell.split(INTERVAL_SEPARATOR)
        ]
    except ValueError as error:
        raise QuestionError(
            f"{location}: evidence must be intervals in seconds, such as 62-75.5; 80-91, not"
            f" {cell!r}."
        ) from error
