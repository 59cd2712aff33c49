"""What the schema is made of: fields that carry their meaning, unit and range."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field of the schema: its default, what it means, its unit and its range."""
    metadata = {
        "meaning": meaning,
        "unit": unit,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type, meaning: str) -> Any:
    """A field of the schema that holds a group of settings."""
    return field(default_factory=kind, metadata={"meaning": meaning})
