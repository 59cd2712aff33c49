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
from lit_hour.evaluation.benchmarks.base import Family, Record
from lit_hour.evaluation.benchmarks.files import Content, name_digests, read_content
from lit_hour.evaluation.item import Item, Questions, Refused


@dataclass(frozen=True)
class FoundVideos:
    """Where the videos lie.

    Attributes:
        files: question id -> video file.
        missing: question id -> why it cannot be asked.
    """

    files: Mapping[str, Path]
    missing: Mapping[str, str]


def find_videos(items: Iterable[Item], roots: Sequence[Path]) -> FoundVideos:
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
    return FoundVideos(files, missing)


FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY
    for module in (video_mme, lvbench, longvideobench, mlvu, tempcompass, egoschema)
}
NUM_NAMED = 5  # records that an error about too many lists


def read_benchmark(name: str, files: Sequence[Path], max_refused: int) -> Questions:
    """Read the files of one benchmark as they are published.

    Args:
        name: one of `FAMILIES`.
        files: some or all files of it.
        max_refused: records that may be unusable: with missing columns, an answer outside the options, an id that is taken.

    Raises:
        QuestionError: there is no such benchmark, a file cannot be read or belongs to another one, or the budget is spent.
    """
    if name not in FAMILIES:
        raise QuestionError(
            f"there is no benchmark {name!r}{did_you_mean(name, FAMILIES)}; known are {', '.join(FAMILIES)}"
        )
    family = FAMILIES[name]
    if not files:
        raise QuestionError(f"no file of {family.title} was given")
    contents = [read_content(file) for file in files]
    records = list(family.spread(contents))
    for content in contents:
        _check_family(
            family, content, [record for record in records if record.file == content.file]
        )
    items, refused = _parse(family, records)
    if len(refused) > max_refused or not items:
        allowed = f"{max_refused} may be" if items else "and none can"
        shown = "\n".join(f"  {record.place}: {record.reason}" for record in refused[:NUM_NAMED])
        raise QuestionError(
            f"{len(refused)} records of {family.title} cannot be used, {allowed}. The first:\n{shown}"
        )
    return Questions(
        name, family.title, items, refused, family.num_published, name_digests(contents)
    )


def _parse(
    family: Family, records: Sequence[Record]
) -> tuple[tuple[Item, ...], tuple[Refused, ...]]:
    """The items, and what is wrong with the records that became none."""
    items: dict[str, Item] = {}
    refused = []
    for record in records:
        try:
            item = family.parse(record)
        except QuestionError as error:
            refused.append(Refused(record.place, str(error).removeprefix(f"{record.place}: ")))
            continue
        if item.id in items:
            refused.append(
                Refused(
                    record.place,
                    f"the id {item.id!r} is taken by {items[item.id].place}; ids must be unique",
                )
            )
        else:
            items[item.id] = item
    return tuple(items.values()), tuple(refused)


def _check_family(family: Family, content: Content, records: Sequence[Record]) -> None:
    """Refuse a file that has no record with the columns of the benchmark."""
    if family.holds_answers(content.value) or any(_is_whole(family, record) for record in records):
        return
    found = {column for record in records for column in record.fields}
    missing = (
        ", ".join(column for column in family.columns if column not in found)
        or "one of them in every record"
    )
    hint = f"; {family.hint}" if family.hint else ""
    others = [
        other.title for other in FAMILIES.values() if other is not family and _is_of(other, content)
    ]
    looks = f"; it looks like a file of {' or '.join(others)}" if others else ""
    columns = ", ".join(family.columns)
    raise QuestionError(
        f"{content.file} is no file of {family.title}, with columns {columns}: it lacks {missing}{hint}{looks}"
    )


def _is_of(family: Family, content: Content) -> bool:
    return any(_is_whole(family, record) for record in family.spread([content]))


def _is_whole(family: Family, record: Record) -> bool:
    return set(family.columns) <= record.fields.keys()
