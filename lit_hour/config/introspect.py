"""Walk the schema: full names of all settings, and the text of `--help`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from dataclasses import field as dataclass_field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lit_hour.config.schema import Config

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
BOUND_NAMES = {"ge": "at least", "gt": "above", "le": "at most"}
HELP_WIDTH = 100  # columns


@dataclass(frozen=True)
class FieldInfo:
    """A setting of the schema, or a section of settings.

    Attributes:
        name: full name. NAME stands for a part that the user chooses: `data.sources.NAME.weight`.
        type: int, float, bool, str or a Literal; for a section its dataclass, or
            `dict[str, dataclass]` for sections that the user names.
        default: MISSING for a section, and for a setting that must be given.
        metadata: help, unit, ge, gt and le.
        is_section: true for a section.
        is_mapping: true for a section with names of the user's choice, such as `data.sources`.
    """

    name: str
    type: Any
    default: Any
    metadata: Mapping[str, Any]
    is_section: bool = dataclass_field(init=False)
    is_mapping: bool = dataclass_field(init=False)

    def __post_init__(self) -> None:
        is_mapping = get_origin(self.type) is dict
        object.__setattr__(self, "is_mapping", is_mapping)
        object.__setattr__(self, "is_section", is_mapping or is_dataclass(self.type))

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values of a Literal setting; empty for any other."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()


def walk_schema(section: type = Config, prefix: str = "") -> Iterator[FieldInfo]:
    """Iterate over the settings of a section in order, then over each section in it."""
    types = get_type_hints(section)
    infos = [
        FieldInfo(f"{prefix}{field.name}", types[field.name], field.default, field.metadata)
        for field in fields(section)
    ]
    for info in sorted(infos, key=lambda info: info.is_section):
        yield info
        if info.is_mapping:
            info = FieldInfo(f"{info.name}.NAME", get_args(info.type)[1], MISSING, info.metadata)
            yield info
        if info.is_section:
            yield from walk_schema(info.type, f"{info.name}.")


def describe_settings() -> str:
    """Return the `--help` text: every setting with default, unit, range and help, by section."""
    blocks = []
    for info in walk_schema():
        if info.is_mapping:
            continue  # its NAME entry comes next and is the heading
        if info.is_section:
            blocks.append(f"\n{info.name}: {info.metadata['help']}")
            continue
        notes = ", ".join(filter(None, (info.metadata["unit"], _describe_limits(info))))
        blocks.append(
            f"  {info.name}={_describe_default(info)}" + (f"  [{notes}]" if notes else "")
        )
        blocks.append(
            textwrap.fill(
                info.metadata["help"],
                HELP_WIDTH,
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
                break_on_hyphens=False,
            )
        )
    return "\n".join(blocks).strip()


def describe_type(info: FieldInfo) -> str:
    """Return the type in words, `a whole number`, or the choices."""
    return _alternatives(info.choices) or TYPE_NAMES[info.type]


def describe_range(metadata: Mapping[str, Any]) -> str:
    """Return the bounds of a number, `at least 1 and at most 100`, or an empty text."""
    return " and ".join(
        f"{name} {metadata[bound]}"
        for bound, name in BOUND_NAMES.items()
        if metadata[bound] is not None
    )


def _describe_default(info: FieldInfo) -> str:
    """Return the text of the default on the command line, after `NAME=`."""
    if info.default is MISSING:
        return "..."
    return str(info.default).lower() if info.type is bool else str(info.default)


def _describe_limits(info: FieldInfo) -> str:
    if info.default is MISSING:
        return "required"
    return _alternatives(info.choices) or describe_range(info.metadata)


def _alternatives(choices: tuple[str, ...]) -> str:
    *others, last = choices or ("",)
    return f"{', '.join(others)} or {last}" if others else last
