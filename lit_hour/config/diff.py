"""Differences between two sets of settings, each a (nested) mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABSENT = "(missing)"  # stands for the value of a setting that one side does not have


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def diff_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return both values of each setting that differs, by its dotted key."""
    old, new = flatten(before), flatten(now)
    pairs = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in {**old, **new}}
    return {key: (one, other) for key, (one, other) in pairs.items() if one != other}


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a text for each setting that differs: "NAME was OLD, is NEW"."""
    return [
        f"{key} was {old!r}, is {new!r}" for key, (old, new) in diff_settings(before, now).items()
    ]
