"""Dataclass fields of the schema that carry their help text, unit and range."""

from __future__ import annotations

import dataclasses
from typing import Any


def field(
    default: Any,
    help: str,
    *,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
) -> Any:
    """Return a dataclass field of the schema.

    Args:
        default: the default value; a dataclass for a section of settings; `dataclasses.MISSING` for
            a setting that must be given. A dict is copied for each instance.
        help: what the setting does.
        unit: unit of the value, such as `"frames"`; empty for none.
        ge: smallest allowed value.
        gt: bound that the value must exceed.
        le: largest allowed value.
    """
    metadata = {"help": help, "unit": unit, "ge": ge, "gt": gt, "le": le}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
