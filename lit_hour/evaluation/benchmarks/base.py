"""Base classes of the benchmarks: `Benchmark` describes one, `Record` is a question in its file.

A benchmark iterates over the records of its files and parses each into an `Item`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lit_hour.data.questions.record import check_path, check_text, did_you_mean
from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.files import BenchmarkFile
from lit_hour.evaluation.item import Item, MetricSpec
from lit_hour.text.time_intervals import SCORE_NAMES

Options = Mapping[str, str]

GROUNDING_METRICS = tuple(MetricSpec(name, name) for name in SCORE_NAMES)

_LABELED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Record:
    """One question as in its file.

    Attributes:
        file: path of the file.
        name: number of the record in the file, from 1, or the keys that lead to it.
        fields: column -> value; empty if the file has something else than a mapping here.
    """

    file: Path
    name: str
    fields: Mapping[str, Any]

    @property
    def location(self) -> str:
        """File and record, for messages."""
        return f"{self.file}: record {self.name}"

    def value(self, column: str) -> Any:
        """Return the value of a required column."""
        if column not in self.fields:
            raise QuestionError(
                f"{self.location}: column '{column}' is missing{did_you_mean(column, self.fields)}"
            )
        return self.fields[column]

    def text(self, column: str) -> str:
        """Return the text of a column unchanged; blank text is an error."""
        value = self.value(column)
        check_text(value, column, self.location)
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """Return the list of texts of a column, unchanged."""
        value = self.value(column)
        is_texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
        if not is_texts or not value:
            raise QuestionError(
                f"{self.location}: column '{column}' has to be a list of texts, not {value!r}"
            )
        for text in filter(str.strip, value):
            check_text(text, column, self.location)
        return tuple(value)

    def identifier(self, column: str) -> str:
        """Return the text or integer of a column, as text."""
        value = self.value(column)
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise QuestionError(
                f"{self.location}: column '{column}' has to be a text or an integer, not {value!r}"
            )
        return str(value).strip()

    def index(self, column: str, length: int) -> int:
        """Return the integer of a column that indexes a sequence of some length."""
        value = self.value(column)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < length:
            raise QuestionError(
                f"{self.location}: column '{column}' has to be an index from 0 to {length - 1},"
                f" not {value!r}"
            )
        return value

    def optional_number(self, column: str) -> float:
        """Return the finite number of a column; 0 if the record lacks it."""
        value = self.fields.get(column)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise QuestionError(
                f"{self.location}: column '{column}' has to be a number, not {value!r}"
            )
        return float(value)

    def choice(self, column: str, choices: Iterable[str]) -> str:
        """Return the text of a column that must be one of the choices."""
        return self.check_choice(self.identifier(column), column, choices)

    def check_choice(self, value: str, column: str, choices: Iterable[str]) -> str:
        """Return the value if it is one of the choices."""
        known = tuple(choices)
        if value not in known:
            raise QuestionError(
                f"{self.location}: column '{column}': {value!r} is none of"
                f" {', '.join(known)}{did_you_mean(value, known)}"
            )
        return value

    def video(self, path: str, column: str) -> str:
        """Return the path of a video if it stays inside the folder of videos."""
        return check_path(path, column, self.location)


def never(_: Any) -> bool:
    """Return False: the benchmark has no files of answers only."""
    return False


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark (in lmms-eval: a task).

    Attributes:
        name: value of the setting `evaluation.benchmark`.
        title: name for readers.
        columns: those that every usable record has. A file without any such record is refused.
        num_published: questions in the whole benchmark.
        iter_records: all files -> their records.
        parse: record -> item; raises QuestionError if the record cannot be used.
        is_answer_file: whether a file has only answers to the questions of another file, given its
            JSON.
        hint: what to do if columns are missing.
        metrics: the published scores besides the share of correct responses.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    num_published: int
    iter_records: Callable[[Sequence[BenchmarkFile]], Iterator[Record]]
    parse: Callable[[Record], Item]
    is_answer_file: Callable[[Any], bool] = never
    hint: str = ""
    metrics: tuple[MetricSpec, ...] = ()


def iter_list_records(files: Sequence[BenchmarkFile]) -> Iterator[Record]:
    """Iterate over the records of files that contain a list of records."""
    for file in files:
        if isinstance(file.content, list):
            for number, fields in enumerate(file.content, start=1):
                yield Record(file.path, str(number), fields if isinstance(fields, dict) else {})


def lettered_options(record: Record, column: str) -> Options:
    """Return the options of a column under the letters A, B, ...

    Some published options are blank; they are kept.

    Raises:
        QuestionError: there are fewer than 2 or more than 26 options, or one is not a text.
    """
    texts = record.texts(column)
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise QuestionError(
            f"{record.location}: column '{column}' has {len(texts)} options;"
            f" 2 to {len(ascii_uppercase)} are supported"
        )
    return dict(zip(ascii_uppercase, texts, strict=False))


def parse_labeled_options(lines: Sequence[str], column: str, location: str) -> Options:
    """Parse options that carry their letters, such as "A. red" or "(B) blue".

    Raises:
        QuestionError: a line has no letter, or the letters are not A, B, C, ...
    """
    found = [_LABELED.fullmatch(line.strip()) for line in lines]
    letters = [match[1] for match in found if match]
    if letters != list(ascii_uppercase[: len(lines)]) or len(lines) < 2:
        raise QuestionError(
            f"{location}: column '{column}' has to hold options A., B. and so on,"
            f" not {list(lines)!r}"
        )
    return {match[1]: match[2] for match in found if match}


def check_intervals(value: Any, column: str, location: str) -> tuple[tuple[float, float], ...]:
    """Return a list of [start, end] in seconds as tuples.

    Raises:
        QuestionError: it is empty, or an interval is not two finite numbers, of which the first is
            not negative and the second is larger.
    """
    intervals = []
    for pair in value if isinstance(value, list) else []:
        numbers = pair if isinstance(pair, list) else []
        is_valid = len(numbers) == 2 and all(
            isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number)
            for number in numbers
        )
        if not is_valid or not 0 <= numbers[0] < numbers[1]:
            raise QuestionError(
                f"{location}: column '{column}': {pair!r} is not an interval: two numbers of"
                " seconds, the start before the end"
            )
        intervals.append((float(numbers[0]), float(numbers[1])))
    if not intervals:
        raise QuestionError(f"{location}: column '{column}' has no interval: {value!r:.80}")
    return tuple(intervals)
