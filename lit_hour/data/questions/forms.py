"""Bring a record of another project into the form of this one, or into LLaVA's.

`unify_record` takes what LLaMA-Factory, ms-swift, TRL, LLaVA and its descendants write: `messages`
or `conversations`, `videos`, system turns, parts of videos, options with their letters, preference
pairs. A key whose value is null, an empty list or "" is absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

from lit_hour.data.questions.preferences import unify_preference
from lit_hour.data.questions.record import LETTER
from lit_hour.errors import QuestionError

SYSTEM_ROLES, HUMAN_ROLES, MODEL_ROLES = ("system",), ("human", "user"), ("gpt", "assistant")
ROLES = (*SYSTEM_ROLES, *HUMAN_ROLES, *MODEL_ROLES)
_OTHER_NAMES = {
    "messages": "conversations",
    "videos": "video",
    "system": "system_prompt",
    "video_start": "start",
    "video_end": "end",
}
_TURN_KEYS = (("from", "value"), ("role", "content"))
_MEDIA_KEYS = ("video", "image")
_LOWERCASE_OPTION = re.compile(r"\s*\(?([a-z])[.):](?:\s+|\Z)(.*)", re.DOTALL)
_LOWERCASE_ANSWER = re.compile(r"\(?([a-z])(?:[.):](?:\s+(.*))?)?", re.DOTALL)
_OPTION = re.compile(r"\s*\(?([A-Z])[.):](?:\s+|\Z)(.*)", re.DOTALL)


def unify_record(record: dict[str, Any], location: str) -> dict[str, Any]:
    """Return a record in the form of this project, or in LLaVA's with alternating turns.

    Args:
        record: as in the file; it is not changed.
        location: the file and the record, for errors.

    Raises:
        QuestionError: a value has no meaning here: several videos, an unknown role, a time that is
            not a number.
    """
    unified = _rename_keys(unify_preference(record, location))
    if isinstance(unified.get("conversations"), list):
        _unify_turns(unified, location)
    _drop_empty_files(unified)
    for key in _MEDIA_KEYS:
        if key in unified:
            unified[key] = _unify_files(unified[key])
    if isinstance(unified.get("video"), list):
        unified["video"] = _single_video(unified["video"], location)
    for key in ("start", "end"):
        if unified.get(key) == "":
            del unified[key]
        if key in unified:
            unified[key] = _parse_seconds(unified[key], key, location)
    if "options" in unified:
        options, answer = _unify_options(unified["options"], unified.get("answer"), location)
        unified |= (
            {"options": options} if answer is None else {"options": options, "answer": answer}
        )
    return unified


def strip_letters(options: Any, answer: Any) -> tuple[Any, Any]:
    """Return options without the letters A, B, ... that all of them carry, and the answer so.

    "A. Apples.", "(B) Candles." become "Apples.", "Candles."; the answer "B. Candles." likewise.
    Other letters are kept, and an answer that is one of them becomes its option. Anything else is
    returned as it is.
    """
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        return options, answer
    options, answer = _capitalize_letters(options, answer)
    found = [_OPTION.fullmatch(option) for option in options]
    letters = [match[1] for match in found if match and match[2].strip()]
    if len(options) < 2 or len(set(letters)) < len(options):
        return options, answer
    if letters != [chr(ord("A") + index) for index in range(len(options))]:
        letter = LETTER.fullmatch(answer.strip()) if isinstance(answer, str) else None
        if letter and letter[1] in letters:  # not the option of that number
            answer = options[letters.index(letter[1])]
        return options, answer
    texts = [match[2].strip() for match in found if match]
    if isinstance(answer, str) and answer.strip() not in texts:
        named = _OPTION.fullmatch(answer.strip())
        if named and named[1] in letters and named[2].strip() in ("", texts[ord(named[1]) - 65]):
            answer = named[1]
    return texts, answer


def _capitalize_letters(options: list[str], answer: Any) -> tuple[list[str], Any]:
    """Return options that carry a, b, ... in order with A, B, ... instead, and the answer so."""
    found = [_LOWERCASE_OPTION.fullmatch(option) for option in options]
    letters = [match[1] for match in found if match and match[2].strip()]
    if not options or letters != list(ascii_lowercase[: len(options)]):
        return options, answer
    texts = [match[2].strip() for match in found if match]
    if isinstance(answer, str) and answer.strip() not in texts:
        named = _LOWERCASE_ANSWER.fullmatch(answer.strip())
        if named and named[1] in letters:
            answer = f"{named[1].upper()}. {named[2] or ''}".strip()
    return [
        f"{letter.upper()}. {text}" for letter, text in zip(letters, texts, strict=True)
    ], answer


def _rename_keys(record: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that have a value, under their names in this project."""
    renamed: dict[str, Any] = {}
    for key, value in record.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        name = _OTHER_NAMES.get(key, key)
        if name == key or record.get(name) is None:
            renamed[name] = value
    return renamed


def _unify_turns(unified: dict[str, Any], location: str) -> None:
    """Give each turn the keys `from` and `value`, and move system turns and files out of them."""
    turns: list[dict[str, Any]] = []
    files: dict[str, list[Any]] = {key: [] for key in _MEDIA_KEYS}
    for number, turn in enumerate(unified["conversations"], start=1):
        where = f"{location}: key 'conversations': turn {number}"
        keys = next((pair for pair in _TURN_KEYS if _has_keys(turn, pair)), None)
        if keys is None:
            raise QuestionError(f"{where} must be a mapping with 'from' and 'value'.")
        role, value = turn[keys[0]], turn[keys[1]]
        if isinstance(value, list):
            value = _join_parts(value, files, where)
        if role not in ROLES:
            raise QuestionError(f"{where} is from {role!r}. Known roles are {', '.join(ROLES)}.")
        if role in SYSTEM_ROLES:
            if turns:
                raise QuestionError(f"{where} is from system, and only the first turn may be.")
            _set_system_prompt(unified, value, where)
            continue
        turns.append({"from": role, "value": value})
    unified["conversations"] = turns
    for key, names in files.items():
        if names and key not in unified:
            unified[key] = names


def _set_system_prompt(unified: dict[str, Any], value: Any, where: str) -> None:
    if value and unified.get("system_prompt"):
        raise QuestionError(f"{where} is a second system prompt. Remove one of them.")
    if value:
        unified["system_prompt"] = value


def _has_keys(turn: Any, keys: Sequence[str]) -> bool:
    return isinstance(turn, dict) and all(key in turn for key in keys)


def _join_parts(parts: Sequence[Any], files: dict[str, list[Any]], where: str) -> str:
    """Return the text of content parts, with placeholders, and collect the files they name."""
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if isinstance(part, str):
            texts.append(part)
        elif kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _MEDIA_KEYS:
            texts.append(f"<{kind}>")
            named = (part.get(key) for key in (kind, "path", "url"))
            files[kind] += [name for name in named if isinstance(name, str) and name][:1]
        else:
            raise QuestionError(
                f"{where} has the content part {part!r}. Parts of type text, video and image are"
                " read."
            )
    return "".join(texts)


def _drop_empty_files(unified: dict[str, Any]) -> None:
    """Drop empty lists of files beside files, and all in a conversation, as unions of columns."""
    keys = [key for key in (*_MEDIA_KEYS, "images") if key in unified]
    empty = [key for key in keys if unified[key] in ([], "", {})]
    if len(empty) < len(keys) or "conversations" in unified:
        for key in empty:
            del unified[key]


def _unify_files(value: Any) -> Any:
    """Return the path in a mapping such as {"path": "a.mp4"} or in a file:// URL, or the value."""
    if isinstance(value, list):
        return [_unify_files(item) for item in value]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return value["path"]
    return value.removeprefix("file://") if isinstance(value, str) else value


def _single_video(videos: list[Any], location: str) -> Any:
    if len(videos) == 1:
        return videos[0]
    raise QuestionError(
        f"{location}: names {len(videos)} videos. A record is about one; write one record for each"
        " video."
    )


def _parse_seconds(value: Any, key: str, location: str) -> float:
    """Return a time in seconds, given as a number or its text, or as "1:02:03.5"."""
    parts = value.split(":") if isinstance(value, str) else [value]
    try:
        if isinstance(value, bool) or len(parts) > 3:
            raise ValueError
        numbers = [float(part) for part in reversed(parts)]
        seconds = math.fsum(number * 60**power for power, number in enumerate(numbers))
        if not (min(numbers) >= 0 and seconds < math.inf):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise QuestionError(
            f"{location}: key '{key}' must be a time in seconds, not {value!r}."
        ) from error
    return seconds


def _unify_options(options: Any, answer: Any, location: str) -> tuple[Any, Any]:
    """Return the options of a mapping, of lines with letters or of a list, and the answer."""
    if isinstance(options, dict):
        return _options_of_mapping(options, answer, location)
    if isinstance(options, str):
        lines = [line for line in options.splitlines() if line.strip()]
        if len(lines) > 1 and all(_OPTION.fullmatch(line) for line in lines):
            options = lines
    return strip_letters(options, answer)


def _options_of_mapping(
    options: dict[str, Any], answer: Any, location: str
) -> tuple[list[str], Any]:
    """Return the options of a mapping from letters or numbers, and the option of the answer.

    Raises:
        QuestionError: the answer is the letter of an option that is absent.
    """
    text_of = {
        key.strip(): str(text).strip() for key, text in options.items() if text not in (None, "")
    }
    texts = list(text_of.values())
    if not isinstance(answer, str) or answer.strip() in texts:
        return texts, answer
    letter, lettered = LETTER.fullmatch(answer.strip()), _OPTION.fullmatch(answer.strip())
    if lettered and lettered[2].strip() == text_of.get(lettered[1]):
        return texts, text_of[lettered[1]]
    key = letter[1] if letter else answer.strip()
    if letter and key not in text_of and all(LETTER.fullmatch(other) for other in text_of):
        raise QuestionError(
            f"{location}: key 'answer': {answer!r} is not among the options {text_of}."
        )
    return texts, text_of.get(key, answer)
