"""Load the published question files of a benchmark, and find the videos of its questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hour.data.questions.record import did_you_mean
from lit_hour.errors import QuestionError, list_first
from lit_hour.evaluation.benchmarks import (
    charades_sta,
    egoschema,
    longvideobench,
    lvbench,
    mlvu,
    qvhighlights,
    tempcompass,
    video_mme,
)
from lit_hour.evaluation.benchmarks.base import Benchmark, Record
from lit_hour.evaluation.benchmarks.files import BenchmarkFile, file_digests, read_file
from lit_hour.evaluation.item import InvalidRecord, Item, QuestionSet

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (video_mme, lvbench, longvideobench, mlvu, tempcompass, egoschema)
}
TEST_BENCHMARKS: dict[str, Benchmark] = {
    module.TEST_BENCHMARK.name: module.TEST_BENCHMARK
    for module in (longvideobench, mlvu, egoschema)
}  # without public answers
GROUNDING_BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK for module in (charades_sta, qvhighlights)
}  # answers are time intervals


def load_benchmark(name: str, paths: Sequence[Path], max_invalid: int) -> QuestionSet:
    """Load the files of one benchmark as they are published.

    Args:
        name: one of `BENCHMARKS`, `TEST_BENCHMARKS` or `GROUNDING_BENCHMARKS`.
        paths: some or all files of the benchmark.
        max_invalid: number of records that may be invalid: with missing columns, an answer that is
            none of the options, or an id that is taken.

    Raises:
        QuestionError: the benchmark is unknown, a file cannot be read or belongs to another
            benchmark, or there are too many invalid records.
    """
    known = {**BENCHMARKS, **TEST_BENCHMARKS, **GROUNDING_BENCHMARKS}
    if name not in known:
        raise QuestionError(
            f"There is no benchmark {name!r}{did_you_mean(name, known)}. Known benchmarks:"
            f" {', '.join(known)}."
        )
    benchmark = known[name]
    if not paths:
        raise QuestionError(f"No file of {benchmark.title} was given.")
    files = [read_file(path) for path in paths]
    records = list(benchmark.iter_records(files))
    for file in files:
        _check_columns(benchmark, file, [record for record in records if record.file == file.path])
    items, invalid = _parse(benchmark, records)
    if len(invalid) > max_invalid or not items:
        allowed = (
            f"evaluation.max_invalid_records={max_invalid} are allowed"
            if items
            else "none is valid"
        )
        reasons = [f"  {record.location}: {record.reason}" for record in invalid]
        listed = list_first(reasons, "\n")
        raise QuestionError(
            f"{len(invalid)} records of {benchmark.title} cannot be used; {allowed}."
            f" The first:\n{listed}"
        )
    return QuestionSet(
        name,
        benchmark.title,
        items,
        invalid,
        benchmark.num_published,
        file_digests(files),
        benchmark.metrics,
    )


def _parse(
    benchmark: Benchmark, records: Sequence[Record]
) -> tuple[tuple[Item, ...], tuple[InvalidRecord, ...]]:
    """Parse the records into items, and collect those that cannot be used."""
    items: dict[str, Item] = {}
    invalid = []
    for record in records:
        try:
            item = benchmark.parse(record)
        except QuestionError as error:
            reason = str(error).removeprefix(f"{record.location}: ")
            invalid.append(InvalidRecord(record.location, reason))
            continue
        if item.id in items:
            taken = f"the id {item.id!r} is taken by {items[item.id].location}; ids must be unique"
            invalid.append(InvalidRecord(record.location, taken))
        else:
            items[item.id] = item
    return tuple(items.values()), tuple(invalid)


def _check_columns(benchmark: Benchmark, file: BenchmarkFile, records: Sequence[Record]) -> None:
    """Refuse a file without any record that has the columns of the benchmark."""
    if benchmark.is_answer_file(file.content) or any(
        _has_columns(benchmark, record) for record in records
    ):
        return
    found = {column for record in records for column in record.fields}
    absent = [column for column in benchmark.columns if column not in found]
    missing = ", ".join(absent) or "one of them in every record"
    hint = f"; {benchmark.hint}" if benchmark.hint else ""
    others = [
        other.title
        for other in BENCHMARKS.values()
        if other is not benchmark
        and any(_has_columns(other, record) for record in other.iter_records([file]))
    ]
    likely = f"; it looks like a file of {' or '.join(others)}" if others else ""
    raise QuestionError(
        f"{file.path} is not a file of {benchmark.title}, which has columns"
        f" {', '.join(benchmark.columns)}: it lacks {missing}{hint}{likely}."
    )


def _has_columns(benchmark: Benchmark, record: Record) -> bool:
    return set(benchmark.columns) <= record.fields.keys()


@dataclass(frozen=True)
class VideoLookup:
    """The videos of some questions.

    Attributes:
        files: question id -> video file.
        missing: question id -> why there is no video.
    """

    files: Mapping[str, Path]
    missing: Mapping[str, str]


def find_videos(items: Iterable[Item], folders: Sequence[Path]) -> VideoLookup:
    """Find each question's video: in the first folder that has it, at its most likely path."""
    files: dict[str, Path] = {}
    missing: dict[str, str] = {}
    found: dict[tuple[str, ...], Path | None] = {}
    for item in items:
        if item.videos not in found:
            candidates = (folder / video for folder in folders for video in item.videos)
            found[item.videos] = next((file for file in candidates if file.is_file()), None)
        if (file := found[item.videos]) is not None:
            files[item.id] = file
        else:
            searched = ", ".join(map(str, folders)) or "no folder"
            missing[item.id] = f"video {' or '.join(item.videos)} is in none of {searched}"
    return VideoLookup(files, missing)
