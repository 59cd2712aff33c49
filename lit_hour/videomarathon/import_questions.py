"""Import foreign question files and find their videos (`import_questions`), for `lit-hour pack`.

    OUT/videos/NAME        a link to each video that was found
    OUT/questions.json     the questions about them, in this project's format
    OUT/missing.txt        the videos that were not found
    OUT/ambiguous.txt      of these, the videos with several files, or that share one file
    OUT/invalid.txt        the records that cannot be used

`question_tables` says what is read, `video_lookup` when a file is a video of the question file.
"""

from __future__ import annotations

import filecmp
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any, TextIO

from lit_hour.data.questions.file import (
    ParsedRecord,
    UniqueIds,
    log_unused_keys,
    parse_record,
    record_location,
)
from lit_hour.data.questions.forms import unify_record
from lit_hour.data.questions.record import question_record, sample_record
from lit_hour.errors import QuestionError
from lit_hour.io.atomic import atomic_write, temp_path
from lit_hour.videomarathon.choices_in_text import recognize_choice
from lit_hour.videomarathon.import_manifest import VideoRequest, read_found, write_manifest
from lit_hour.videomarathon.question_tables import (
    expand_files,
    iter_records,
    split_question_type,
    unify_row,
)
from lit_hour.videomarathon.video_lookup import Match, VideoFolders, clean_name, link_name

# Columns of VideoMarathon's tables, beside the keys of this project.
TABLE_COLUMNS = ("data_source", "question_type", "URL", "url")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportOptions:
    """Folders of videos, and limits of what may be missing.

    Attributes:
        roots: folders of videos.
        id_folders: folders of videos that are named after their ids.
        manifest: CSV file to write about all videos; then any number may be missing.
        max_missing: number of videos that may be missing.
        max_invalid: number of records that may be invalid.
    """

    roots: Sequence[Path] = ()
    id_folders: Sequence[Path] = ()
    manifest: Path | None = None
    max_missing: int = 0
    max_invalid: int = 0


@dataclass(frozen=True)
class ImportResult:
    """Totals of an import.

    Attributes:
        num_videos: that were found.
        num_questions: about them.
        missing: names of the other videos.
        sources: source -> videos found, all videos, questions about those found.
        num_new: videos that the manifest of an earlier call lists as missing; None without one.
        num_partial: videos of which only the end of the path is that of a file.
        num_invalid: records that cannot be used.
    """

    num_videos: int
    num_questions: int
    missing: tuple[str, ...]
    sources: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    num_new: int | None = None
    num_partial: int = 0
    num_invalid: int = 0


def import_questions(files: Sequence[str], out: Path, options: ImportOptions) -> ImportResult:
    """Find the video of each question, and write the questions about videos that were found.

    Questions are read and written one after the other: memory grows with the number of videos, and
    with a few bytes per question. The same call goes on from the videos that have arrived since.

    Args:
        files: question files, patterns and URLs.
        out: folder to create.
        options: how videos are found.

    Raises:
        QuestionError: a file cannot be read, has questions about images or text, too many records
            are invalid or videos missing, or `out` has another video of the same name.
    """
    expanded = expand_files(files)
    try:
        out.mkdir(parents=True, exist_ok=True)
        reader = _RecordReader(options.max_invalid)
        draft = temp_path(out / "records.jsonl")
        try:
            with draft.open("w", encoding="utf-8") as stream:
                for name in expanded:
                    reader.read(name, stream)
            _write_lines(out / "invalid.txt", reader.invalid)
            if not reader.requests:
                raise QuestionError(f"{', '.join(expanded)}: there are no questions.")
            return _link_and_write(reader, draft, out, options)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise QuestionError(f"Cannot write to {out}: {error}.") from error


def format_import_report(out: Path, result: ImportResult) -> str:
    """Return what was imported, and the command that packs it."""
    notes = ""
    if result.missing:
        notes += f"; {len(result.missing)} videos are missing, see {out / 'missing.txt'}"
    if result.num_invalid:
        notes += f"; {result.num_invalid} records are invalid, see {out / 'invalid.txt'}"
    lines = [f"{out}: {result.num_videos} videos, {result.num_questions} questions{notes}"]
    if result.num_new is not None:
        lines.append(f"{result.num_new} videos have arrived since the manifest was written")
    if result.num_partial:
        lines.append(f"{result.num_partial} videos were found by the end of their path alone")
    if any(result.sources):
        lines += [
            f"  {source or 'no source'}: {found} of {total} videos, {questions} questions"
            for source, (found, total, questions) in sorted(result.sources.items())
        ]
    folder = quote(str(out))
    lines.append(
        f"to pack them: lit-hour pack {folder}/videos {folder}/questions.json {folder}/shards"
    )
    return "\n".join(lines)


class _RecordReader:
    """Reads records into a draft of the questions, and collects their videos.

    Attributes:
        requests: by the cleaned name of the video.
        invalid: a line for each record that cannot be used.
    """

    def __init__(self, max_invalid: int) -> None:
        self.requests: dict[str, VideoRequest] = {}
        self.invalid: list[str] = []
        self._max_invalid = max_invalid
        self._ids = UniqueIds()
        self._number = 0

    def read(self, name: str, draft: TextIO) -> None:
        """Append the questions of a file to the draft."""
        unused: Counter[str] = Counter()
        unknown_tasks: Counter[str] = Counter()
        for where, record in iter_records(name):
            self._number += 1
            location = record_location(where, record)
            try:
                if isinstance(record, QuestionError):
                    raise record
                self._add(record, location, draft, unused, unknown_tasks)
            except QuestionError as error:
                self.invalid.append(str(error))
                if len(self.invalid) > self._max_invalid:
                    raise QuestionError(
                        f"{str(error).removesuffix('.')}. To leave such records out, raise"
                        f" videomarathon.max_invalid_records (now {self._max_invalid})."
                    ) from error
        log_unused_keys(Path(name), unused)
        if unknown_tasks:
            listed = ", ".join(f"{task!r} ({count})" for task, count in unknown_tasks.items())
            log.warning("%s has values of question_type that are no tasks: %s.", name, listed)

    def _add(
        self,
        record: dict[str, Any],
        location: str,
        draft: TextIO,
        unused: Counter[str],
        unknown_tasks: Counter[str],
    ) -> None:
        """Add the questions of one record to the draft, and its video to the requests."""
        row = unify_record(unify_row(record, location), location)
        columns = {key: str(row.pop(key)) for key in TABLE_COLUMNS if key in row}
        if not isinstance(row.get("video"), str):
            about = next((str(row[key]) for key in ("image", "images") if key in row), "it")
            raise QuestionError(
                f"{location}: {about} is not a video, and only videos can be imported. `lit-hour"
                " pack` takes such files as they are."
            )
        name = clean_name(row["video"])
        source = clean_name(columns.get("data_source", ""))
        if source and not f"{name}/".startswith(f"{source}/"):
            name = f"{source}/{name}"
        parsed = parse_record({**row, "video": name}, self._number, location)
        parsed = _with_choices(parsed, columns.get("question_type", ""), location, unknown_tasks)
        parsed = self._with_unique_ids(parsed, location)
        unused.update(parsed.unused_keys)
        request = self.requests.setdefault(
            name,
            VideoRequest(
                name,
                str(row.get("id", "")),
                columns.get("URL", columns.get("url", "")),
                columns.get("data_source", ""),
            ),
        )
        for question in parsed.questions:
            request.num_questions += 1
            keys = sample_record("video", [name], parsed.clip_seconds, parsed.system_prompt)
            draft.write(json.dumps({**keys, **question_record(question)}) + "\n")

    def _with_unique_ids(self, parsed: ParsedRecord, location: str) -> ParsedRecord:
        """Append the record's number to ids that other records have."""
        try:
            self._ids.add(parsed.questions, self._number, location)
        except QuestionError:
            questions = tuple(
                replace(question, id=f"{question.id}_{self._number}")
                for question in parsed.questions
            )
            self._ids.add(questions, self._number, location)
            return replace(parsed, questions=questions)
        return parsed


def _with_choices(
    parsed: ParsedRecord, question_type: str, location: str, unknown_tasks: Counter[str]
) -> ParsedRecord:
    """Return a record with its task, and with the options that stand in its questions."""
    task, question_format = split_question_type(question_type) if question_type else ("", "")
    if question_type and not task:
        unknown_tasks[question_type] += 1
    questions = []
    for question in parsed.questions:
        recognized = None
        if not question.options and question_format != "open_ended":
            recognized = recognize_choice(question)
            if recognized is None and question_format == "multiple_choice":
                raise QuestionError(
                    f"{location}: key 'question_type' is {question_type!r}, but the question has no"
                    f" options of which {question.answer!r} is one."
                )
        question = recognized or question
        questions.append(replace(question, task=task) if task else question)
    return replace(parsed, questions=tuple(questions))


def _link_and_write(
    reader: _RecordReader, draft: Path, out: Path, options: ImportOptions
) -> ImportResult:
    """Find and link the videos, and write the questions about them and the lists."""
    matches = _find_videos(reader.requests, options)
    missing = tuple(name for name, match in matches.items() if match.path is None)
    _write_lines(out / "missing.txt", missing)
    _write_lines(
        out / "ambiguous.txt",
        (
            f"{name}: {', '.join(map(str, match.candidates))}"
            for name, match in matches.items()
            if match.candidates
        ),
    )
    if len(missing) > options.max_missing and options.manifest is None:
        ambiguous = sum(bool(match.candidates) for match in matches.values())
        note = f", {ambiguous} of them ambiguous ({out / 'ambiguous.txt'})" if ambiguous else ""
        folders = ", ".join(map(str, [*options.roots, *options.id_folders]))
        raise QuestionError(
            f"{len(missing)} of {len(matches)} videos are missing in {folders}{note}, first"
            f" {missing[0]} ({out / 'missing.txt'} lists them). Set"
            f" videomarathon.max_missing_videos={len(missing)} to skip them."
        )
    paths = {name: match.path for name, match in matches.items() if match.path is not None}
    names = {name: link_name(name, path) for name, path in paths.items()}
    for name, path in paths.items():
        _link(out / "videos" / names[name], path)
    num_questions = _write_questions(draft, out / "questions.json", names)
    num_new = None
    if options.manifest is not None:
        earlier = read_found(options.manifest)
        num_new = None if earlier is None else len(set(names.values()) - earlier)
        write_manifest(options.manifest, reader.requests, matches, names)
    return ImportResult(
        len(paths),
        num_questions,
        missing,
        _count_sources(reader.requests, paths),
        num_new,
        sum(match.is_partial for match in matches.values()),
        len(reader.invalid),
    )


def _find_videos(requests: Mapping[str, VideoRequest], options: ImportOptions) -> dict[str, Match]:
    """Return the file of each video: by its path, or else by its id."""
    matches = VideoFolders(options.roots).find(requests)
    if options.id_folders:
        by_id = VideoFolders(options.id_folders)
        for name, request in requests.items():
            if matches[name].path is None:
                found = by_id.find_by_id(request.ids())
                matches[name] = found if found.path or found.candidates else matches[name]
    return matches


def _count_sources(
    requests: Mapping[str, VideoRequest], paths: Mapping[str, Path]
) -> dict[str, tuple[int, int, int]]:
    counts: dict[str, tuple[int, int, int]] = {}
    for name, request in requests.items():
        found, total, questions = counts.get(request.source, (0, 0, 0))
        is_found = name in paths
        counts[request.source] = (
            found + is_found,
            total + 1,
            questions + (request.num_questions if is_found else 0),
        )
    return counts


def _write_questions(draft: Path, file: Path, names: Mapping[str, str]) -> int:
    """Write the questions about linked videos as a list, and return their number."""
    num_questions = 0
    with draft.open(encoding="utf-8") as lines, atomic_write(file) as stream:
        for line in _found_lines(lines, names):
            stream.write(("[\n" if num_questions == 0 else ",\n") + line)
            num_questions += 1
        stream.write("\n]\n" if num_questions else "[]\n")
    return num_questions


def _found_lines(lines: TextIO, names: Mapping[str, str]) -> Iterator[str]:
    for line in lines:
        record = json.loads(line)
        if record["video"] in names:
            yield json.dumps({**record, "video": names[record["video"]]})


def _write_lines(file: Path, lines: Any) -> None:
    with atomic_write(file) as stream:
        stream.writelines(f"{line}\n" for line in lines)


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
