"""Read the fields of a JSON object from a client, with errors that name the field.

Entry point: `JsonFields`. A field that is null counts as absent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from lit_hour.config.introspect import describe_range
from lit_hour.server.http_errors import FieldError

MAX_SHOWN_CHARACTERS = 60  # of a value in a message
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(body: bytes) -> Any:
    """Parse a body.

    Raises:
        FieldError: it is not JSON, is nested too deeply, or has half of a UTF-16 pair.
    """
    try:
        value = json.loads(body.decode())
        if _SURROGATE.search(body):  # may be half of a pair, which no response could repeat
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FieldError("body", "The body is not valid JSON in UTF-8. Send an object.") from error
    return value


class JsonFields:
    """The fields of an object that were not read yet."""

    def __init__(self, value: Any, path: str = "") -> None:
        """Args: path: of the object in the request, for error messages.

        Raises:
            FieldError: the value is not an object.
        """
        self.path = path
        if not isinstance(value, dict):
            raise FieldError(path or "body", f"{path or 'The body'} must be a JSON object.")
        self._left = {name: field for name, field in value.items() if field is not None}

    @property
    def is_empty(self) -> bool:
        """Return whether no field is left."""
        return not self._left

    def name(self, field: str) -> str:
        """Return the full name of a field: `messages[0].content`."""
        return f"{self.path}.{field}" if self.path else field

    def take(self, field: str) -> Any:
        """Return a value of any type; None if it is absent."""
        return self._left.pop(field, None)

    def reject(self, field: str, expected: str, value: Any = None) -> FieldError:
        """Return the error for a value: `stream must be true or false, not "yes".`."""
        name = self.name(field)
        return FieldError(name, f"{name} must be {expected}{_show(value)}.")

    def text(self, field: str) -> str | None:
        """Return a string, or None."""
        value = self.take(field)
        if value is not None and not isinstance(value, str):
            raise self.reject(field, "a string", value)
        return value

    def required_text(self, field: str) -> str:
        """Return a string that must be given."""
        value = self.text(field)
        if value is None:
            raise FieldError(self.name(field), f"{self.name(field)} is required. Give a string.")
        return value

    def choice(self, field: str, choices: tuple[str, ...]) -> str:
        """Return a string that must be given, one of the choices."""
        value = self.required_text(field)
        if value not in choices:
            raise self.reject(field, f"one of {', '.join(choices)}", value)
        return value

    def flag(self, field: str) -> bool:
        """Return a Boolean; false if it is absent."""
        value = self.take(field)
        if value is not None and not isinstance(value, bool):
            raise self.reject(field, "true or false", value)
        return bool(value)

    def number(self, field: str, bounds: Mapping[str, Any]) -> float | None:
        """Return a number within bounds, or None.

        Args:
            field: name.
            bounds: `ge`, `gt` and `le`, as the metadata of a setting has them.
        """
        value = self.take(field)
        if value is None:
            return None
        expected = f"a number {describe_range(bounds)}"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not _is_within(value, bounds) or not math.isfinite(value):
            raise self.reject(field, expected, value)
        return float(value)

    def integer(self, field: str, bounds: Mapping[str, Any]) -> int | None:
        """Return a whole number within bounds, or None; as `number`."""
        value = self.take(field)
        if value is None:
            return None
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or not _is_within(value, bounds):
            raise self.reject(field, f"a whole number {describe_range(bounds)}", value)
        return int(value)

    def section(self, field: str) -> JsonFields:
        """Return the fields of an object; empty if it is absent."""
        value = self.take(field)
        return JsonFields({} if value is None else value, self.name(field))

    def items(self, field: str) -> list[tuple[str, Any]]:
        """Return the items of a list with their full names; empty if it is absent."""
        value = self.take(field)
        if value is not None and not isinstance(value, list):
            raise self.reject(field, "a list", value)
        return [(f"{self.name(field)}[{index}]", item) for index, item in enumerate(value or [])]

    def reject_rest(self) -> None:
        """Check that no field is left.

        Raises:
            FieldError: a field is not supported.
        """
        for field, value in self._left.items():
            if value not in ([], {}):  # these say the same as no value
                name = self.name(field[:MAX_SHOWN_CHARACTERS])
                raise FieldError(name, f"{name} is not supported by this server. Leave it out.")


def _is_within(value: float, bounds: Mapping[str, Any]) -> bool:
    ge, gt, le = bounds["ge"], bounds["gt"], bounds["le"]
    return (
        (ge is None or value >= ge) and (gt is None or value > gt) and (le is None or value <= le)
    )


def _show(value: Any) -> str:
    match value:
        case None:
            return ""
        case dict():
            return ", not an object"
        case list():
            return f", not a list of {len(value)}"
        case _:
            text = json.dumps(value, ensure_ascii=False)
            dots = "..." if len(text) > MAX_SHOWN_CHARACTERS else ""
            return f", not {text[:MAX_SHOWN_CHARACTERS]}{dots}"
