"""The schema -> words: the text of `--help`, and what a setting can be, for errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from lit_hour.config.entries import Entry, walk_schema

KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
BOUND_WORDS = {"at_least": "at least", "above": "above", "at_most": "at most"}


def describe_settings() -> str:
    """Every setting with its default, unit, range and meaning, under the headings of their groups."""
    lines = []
    for entry in walk_schema():
        meaning = entry.metadata["meaning"]
        if entry.holds_named_groups:
            continue  # its NAME comes next and is the heading
        if entry.is_group:
            lines.append(f"\n{entry.name}: {meaning}")
        else:
            notes = ", ".join(note for note in (entry.metadata["unit"], _describe_limits(entry)) if note)
            lines.append(
                f"  {entry.name}={_describe_default(entry)}" + (f"  [{notes}]" if notes else "") + f"\n      {meaning}"
            )
    return "\n".join(lines).strip()


def describe_kind(entry: Entry) -> str:
    """What a setting can be: `a whole number`, or its choices."""
    return _alternatives(entry.choices) or KIND_WORDS[entry.kind]


def describe_range(metadata: Mapping[str, Any]) -> str:
    """The bounds of a number, `at least 1 and at most 100`; empty when it has none."""
    return " and ".join(f"{words} {metadata[bound]:g}" for bound, words in BOUND_WORDS.items() if metadata[bound] is not None)


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
