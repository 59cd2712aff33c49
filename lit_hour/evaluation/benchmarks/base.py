"""What the benchmarks share: a family names its columns, spreads its files into records, and parses a record into an item."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lit_hour.data.questions.record import check_path, check_text, did_you_mean
from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.files import BenchmarkFile
from lit_hour.evaluation.item import Item

Options = Mapping[str, str]

_LABELLED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Record:
    """One question as a file holds it.

    Attributes:
        name: where in the file it stands: its number, counted from 1, or the keys that lead to it.
        fields: column -> value; empty where the file has no mapping at this place.
    """

    file: Path
    name: str
    fields: Mapping[str, Any]

    @property
    def location(self) -> str:
        """How messages call it."""
        return f"{self.file}: record {self.name}"

    def value(self, column: str) -> Any:
        """What stands in a column that has to be there."""
        if column not in self.fields:
            raise QuestionError(
                f"{self.location}: column '{column}' is missing{did_you_mean(column, self.fields)}"
            )
        return self.fields[column]

    def text(self, column: str) -> str:
        """The text of a column, as it is, that has more than blanks in it."""
        value = self.value(column)
        check_text(value, column, self.location)
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """The texts of a column that holds a list of them, as they are."""
        value = self.value(column)
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(text, str) for text in value)
        ):
            raise QuestionError(
                f"{self.location}: column '{column}' has to be a list of texts, not {value!r}"
            )
        for text in filter(str.strip, value):
            check_text(text, column, self.location)
        return tuple(value)

    def identifier(self, column: str) -> str:
        """The text or whole number of a column, as text."""
        value = self.value(column)
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise QuestionError(
                f"{self.location}: column '{column}' has to be a text or a whole number, not {value!r}"
            )
        return str(value).strip()

    def one_of(self, column: str, choices: Iterable[str]) -> str:
        """The text of a column that takes only some."""
        return self.check_choice(self.identifier(column), column, choices)

    def check_choice(self, value: str, column: str, choices: Iterable[str]) -> str:
        """The value, if it is one of the choices."""
        known = tuple(choices)
        if value not in known:
            raise QuestionError(
                f"{self.location}: column '{column}': {value!r} is none of {', '.join(known)}{did_you_mean(value, known)}"
            )
        return value

    def video(self, name: str, column: str) -> str:
        """A path of a video, which must not lead out of the folder of videos."""
        return check_path(name, column, self.location)


def never(_: Any) -> bool:
    """No file of a family is of the kind that holds no question."""
    return False


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, as its files are published.

    Attributes:
        name: the word for it in settings.
        columns: what every usable record has; a file without any such record is a file of something else.
        num_published: questions in the whole benchmark.
        spread: all files -> their records.
        parse: a record -> an item; raises QuestionError for one that cannot be used.
        holds_answers: whether a file's JSON holds answers to the questions of another file, and no question itself.
        hint: what to do where columns are missing.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    num_published: int
    iter_records: Callable[[Sequence[BenchmarkFile]], Iterator[Record]]
    parse: Callable[[Record], Item]
    is_answer_file: Callable[[Any], bool] = never
    hint: str = ""


def iter_list_records(contents: Sequence[BenchmarkFile]) -> Iterator[Record]:
    """The records of files that are lists of them."""
    for content in contents:
        if isinstance(content.content, list):
            for number, fields in enumerate(content.content, start=1):
                yield Record(content.path, str(number), fields if isinstance(fields, dict) else {})


def lettered_options(record: Record, column: str) -> Options:
    """The options of a column, in order, with letters. Some published options are blank, and are shown so.

    Raises:
        QuestionError: there are too few or too many, or one is no text.
    """
    words = record.texts(column)
    if not 2 <= len(words) <= len(ascii_uppercase):
        raise QuestionError(
            f"{record.location}: column '{column}' has {len(words)} options; it takes 2 to {len(ascii_uppercase)}"
        )
    return dict(zip(ascii_uppercase, words, strict=False))


def parse_labeled_options(lines: Sequence[str], column: str, place: str) -> Options:
    """Options that bring their letters with them, such as "A. red" or "(B) blue".

    Raises:
        QuestionError: one has no letter, or the letters are not A, B, C and so on.
    """
    found = [_LABELLED.fullmatch(line.strip()) for line in lines]
    letters = [match[1] for match in found if match]
    if letters != list(ascii_uppercase[: len(lines)]) or len(lines) < 2:
        raise QuestionError(
            f"{place}: column '{column}' has to hold options A., B. and so on, not {list(lines)!r}"
        )
    return {match[1]: match[2] for match in found if match}
