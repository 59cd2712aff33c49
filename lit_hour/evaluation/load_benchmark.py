"""Questions and the folders in which videos may lie in, the file of each question out; what is missing is listed.

The name of a benchmark and its published files in, its questions out. What cannot be used is named, within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hour.data.questions.record import did_you_mean
from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks import (
    egoschema,
    longvideobench,
    lvbench,
    mlvu,
    tempcompass,
    video_mme,
)
from lit_hour.evaluation.benchmarks.base import Benchmark, Record
from lit_hour.evaluation.benchmarks.files import BenchmarkFile, file_digests, read_file
from lit_hour.evaluation.item import InvalidRecord, Item, QuestionSet


@dataclass(frozen=True)
class VideoLookup:
    """Where the videos lie.

    Attributes:
        files: question id -> video file.
        missing: question id -> why it cannot be asked.
    """

    files: Mapping[str, Path]
    missing: Mapping[str, str]


def find_videos(items: Iterable[Item], roots: Sequence[Path]) -> VideoLookup:
    """Look for each question's video below every root; the first root that has it wins, and in it the likeliest path."""
    files: dict[str, Path] = {}
    missing: dict[str, str] = {}
    found: dict[tuple[str, ...], Path | None] = {}
    for item in items:
        if item.videos not in found:
            candidates = (root / video for root in roots for video in item.videos)
            found[item.videos] = next((file for file in candidates if file.is_file()), None)
        if (file := found[item.videos]) is not None:
            files[item.id] = file
        else:
            missing[item.id] = (
                f"video {' or '.join(item.videos)} is in none of {', '.join(map(str, roots)) or 'no folder'}"
            )
    return VideoLookup(files, missing)


BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (video_mme, lvbench, longvideobench, mlvu, tempcompass, egoschema)
}
NUM_NAMED = 5  # records that an error about too many lists


def load_benchmark(name: str, files: Sequence[Path], max_refused: int) -> QuestionSet:
    """Read the files of one benchmark as they are published.

    Args:
        name: one of `FAMILIES`.
        files: some or all files of it.
        max_refused: records that may be unusable: with missing columns, an answer outside the options, an id that is taken.

    Raises:
        QuestionError: there is no such benchmark, a file cannot be read or belongs to another one, or the budget is spent.
    """
    if name not in BENCHMARKS:
        raise QuestionError(
            f"there is no benchmark {name!r}{did_you_mean(name, BENCHMARKS)}; known are {', '.join(BENCHMARKS)}"
        )
    family = BENCHMARKS[name]
    if not files:
        raise QuestionError(f"no file of {family.title} was given")
    contents = [read_file(file) for file in files]
    records = list(family.iter_records(contents))
    for content in contents:
        _check_columns(
            family, content, [record for record in records if record.file == content.path]
        )
    items, refused = _parse(family, records)
    if len(refused) > max_refused or not items:
        allowed = f"{max_refused} may be" if items else "and none can"
        shown = "\n".join(f"  {record.location}: {record.reason}" for record in refused[:NUM_NAMED])
        raise QuestionError(
            f"{len(refused)} records of {family.title} cannot be used, {allowed}. The first:\n{shown}"
        )
    return QuestionSet(
        name, family.title, items, refused, family.num_published, file_digests(contents)
    )


def _parse(
    family: Benchmark, records: Sequence[Record]
) -> tuple[tuple[Item, ...], tuple[InvalidRecord, ...]]:
    """The items, and what is wrong with the records that became none."""
    items: dict[str, Item] = {}
    refused = []
    for record in records:
        try:
            item = family.parse(record)
        except QuestionError as error:
            refused.append(
                InvalidRecord(record.location, str(error).removeprefix(f"{record.location}: "))
            )
            continue
        if item.id in items:
            refused.append(
                InvalidRecord(
                    record.location,
                    f"the id {item.id!r} is taken by {items[item.id].location}; ids must be unique",
                )
            )
        else:
            items[item.id] = item
    return tuple(items.values()), tuple(refused)


def _check_columns(family: Benchmark, content: BenchmarkFile, records: Sequence[Record]) -> None:
    """Refuse a file that has no record with the columns of the benchmark."""
    if family.is_answer_file(content.content) or any(
        _has_columns(family, record) for record in records
    ):
        return
    found = {column for record in records for column in record.fields}
    missing = (
        ", ".join(column for column in family.columns if column not in found)
        or "one of them in every record"
    )
    hint = f"; {family.hint}" if family.hint else ""
    others = [
        other.title
        for other in BENCHMARKS.values()
        if other is not family and _looks_like(other, content)
    ]
    looks = f"; it looks like a file of {' or '.join(others)}" if others else ""
    columns = ", ".join(family.columns)
    raise QuestionError(
        f"{content.path} is no file of {family.title}, with columns {columns}: it lacks {missing}{hint}{looks}"
    )


def _looks_like(family: Benchmark, content: BenchmarkFile) -> bool:
    return any(_has_columns(family, record) for record in family.iter_records([content]))


def _has_columns(family: Benchmark, record: Record) -> bool:
    return set(family.columns) <= record.fields.keys()
