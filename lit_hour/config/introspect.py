"""The classes of schema.py -> a list of their settings under full names, for checks, errors and `--help`.

The schema -> words: the text of `--help`, and what a setting can be, for errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lit_hour.config.schema import Config


@dataclass(frozen=True)
class Entry:
    """A setting as the schema declares it, or a group of settings.

    Attributes:
        name: the full name; where the user chooses a part of it, that part is NAME: `data.sources.NAME.weight`.
        kind: int, float, bool, str or a Literal; of a group its dataclass, or `dict[str, dataclass]` for named ones.
        default: MISSING for a group, and for a setting that has to be given.
        metadata: help; of a setting also unit, ge, gt and le.
    """

    name: str
    kind: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def choices(self) -> tuple[str, ...]:
        """What a Literal setting can be; empty for any other."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def is_group(self) -> bool:
        """Whether this holds settings and is none itself."""
        return is_dataclass(self.kind) or self.holds_named_groups

    @property
    def holds_named_groups(self) -> bool:
        """Whether the user chooses the names of what is inside, as of the sources."""
        return get_origin(self.kind) is dict


def walk_schema(kind: type = Config, prefix: str = "") -> Iterator[Entry]:
    """The settings of a class in the order in which it declares them, then each of its groups and what is inside."""
    kinds = get_type_hints(kind)
    entries = [
        Entry(f"{prefix}{field.name}", kinds[field.name], field.default, field.metadata)
        for field in fields(kind)
    ]
    for entry in sorted(entries, key=lambda entry: entry.is_group):
        yield entry
        if entry.holds_named_groups:
            entry = Entry(f"{entry.name}.NAME", get_args(entry.kind)[1], MISSING, entry.metadata)
            yield entry
        if entry.is_group:
            yield from walk_schema(entry.kind, f"{entry.name}.")


KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
BOUND_WORDS = {"ge": "at least", "gt": "above", "le": "at most"}


def describe_settings() -> str:
    """Every setting with its default, unit, range and meaning, under the headings of their groups."""
    lines = []
    for entry in walk_schema():
        meaning = entry.metadata["help"]
        if entry.holds_named_groups:
            continue  # its NAME comes next and is the heading
        if entry.is_group:
            lines.append(f"\n{entry.name}: {meaning}")
        else:
            notes = ", ".join(
                note for note in (entry.metadata["unit"], _describe_limits(entry)) if note
            )
            lines.append(
                f"  {entry.name}={_describe_default(entry)}"
                + (f"  [{notes}]" if notes else "")
                + f"\n      {meaning}"
            )
    return "\n".join(lines).strip()


def describe_kind(entry: Entry) -> str:
    """What a setting can be: `a whole number`, or its choices."""
    return _alternatives(entry.choices) or KIND_WORDS[entry.kind]


def describe_range(metadata: Mapping[str, Any]) -> str:
    """The bounds of a number, `at least 1 and at most 100`; empty when it has none."""
    return " and ".join(
        f"{words} {metadata[bound]:g}"
        for bound, words in BOUND_WORDS.items()
        if metadata[bound] is not None
    )


def _describe_default(entry: Entry) -> str:
    """The default as it is written after `NAME=` on the command line."""
    if entry.default is MISSING:
        return "..."
    return str(entry.default).lower() if entry.kind is bool else str(entry.default)


def _describe_limits(entry: Entry) -> str:
    if entry.default is MISSING:
        return "has to be given"
    return _alternatives(entry.choices) or describe_range(entry.metadata)


def _alternatives(choices: tuple[str, ...]) -> str:
    *others, last = choices or ("",)
    return f"{', '.join(others)} or {last}" if others else last
