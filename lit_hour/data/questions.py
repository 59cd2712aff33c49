"""A question file in, the questions of each video out. `shards/README.md` describes the two formats that are read."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from lit_hour.errors import QuestionError
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import Question, QuestionFormat

REQUIRED_KEYS = ("question", "answer")
OPTIONAL_KEYS = ("video", "id", "task", "format", "options", "evidence")
MAX_OPTIONS = 26  # one for each letter
LETTER = re.compile(r"\(?([A-Z])[.)]?")
PLACEHOLDER = re.compile(r"<(?:image|video)>")
ASKERS, ANSWERERS = ("human", "user"), ("gpt", "assistant")


def read_questions(file: Path) -> dict[str, list[Question]]:
    """The questions of a `.json` or `.jsonl` file by the name of their video, both in the order of the file.

    Raises:
        QuestionError: the file is missing or not JSON, or a record in it cannot be used.
    """
    questions_of_video: dict[str, list[Question]] = {}
    place_of_id: dict[str, str] = {}
    for number, record in enumerate(_read_records(file), start=1):
        place = f"{file}: record {number}" + (f" (id {record['id']!r})" if "id" in record else "")
        parse = _parse_conversations if "conversations" in record else _parse_single
        for question in parse(record, number, place):
            if question.id in place_of_id:
                raise QuestionError(f"{place}: key 'id': the id is taken by {place_of_id[question.id]}; ids must be unique")
            place_of_id[question.id] = f"record {number}"
            questions_of_video.setdefault(_video_name(record, place), []).append(question)
    if not questions_of_video:
        raise QuestionError(f"{file} holds no question")
    return questions_of_video


def parse_question(record: dict[str, Any], place: str) -> Question:
    """One record of our own format, its id included.

    Args:
        record: the keys that `question_record` writes; "video" may be there too.
        place: the file and the record, for errors.

    Raises:
        QuestionError: a key is missing, unknown, or has a value that cannot be used.
    """
    if not isinstance(record, dict):
        raise QuestionError(f"{place}: a question has to be a mapping, not {record!r}")
    for key in record:
        if key not in REQUIRED_KEYS + OPTIONAL_KEYS:
            raise QuestionError(f"{place}: unknown key {key!r}{_did_you_mean(key, REQUIRED_KEYS + OPTIONAL_KEYS)}")
    options = _options(record, place)
    default_format = "multiple_choice" if options else "open_ended"
    question_format: QuestionFormat = _choice(record, "format", default_format, get_args(QuestionFormat), place)
    if (question_format == "multiple_choice") != bool(options):
        raise QuestionError(f"{place}: key 'options': multiple_choice needs options, open_ended must not have any")
    answer = _text(record, "answer", place)
    return Question(
        id=_identifier(record, place),
        task=_choice(record, "task", "", tuple(TASK_OF_KEY), place),
        format=question_format,
        question=_text(record, "question", place),
        answer=_right_option(answer, options, place) if options else answer,
        options=options,
        evidence=_evidence(record, place),
    )


def question_record(question: Question) -> dict[str, Any]:
    """The question as JSON holds it; `parse_question` reads it back."""
    return {
        "id": question.id,
        "task": question.task,
        "format": question.format,
        "question": question.question,
        "options": list(question.options),
        "answer": question.answer,
        "evidence": [list(interval) for interval in question.evidence],
    }


def _read_records(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON list, or of JSON lines; blank lines do not count."""
    if file.suffix not in (".json", ".jsonl"):
        raise QuestionError(f"{file}: a question file is a .json list or has one record in each line of a .jsonl")
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"{file}: the question file cannot be read: {error}") from error
    if file.suffix == ".jsonl":
        lines = enumerate(content.split("\n"), start=1)
        records = [_parse_json(line, f"{file}: line {number}") for number, line in lines if line.strip()]
    else:
        records = _parse_json(content, str(file))
    if not isinstance(records, list):
        raise QuestionError(f"{file} has to be a list of records, not a {type(records).__name__}")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise QuestionError(f"{file}: record {number} has to be a mapping, not a {type(record).__name__}")
        yield record


def _parse_json(content: str, place: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise QuestionError(f"{place} is not JSON: {error}") from error


def _parse_single(record: dict[str, Any], number: int, place: str) -> Iterator[Question]:
    yield parse_question({"id": f"record_{number}", **record}, place)


def _parse_conversations(record: dict[str, Any], number: int, place: str) -> Iterator[Question]:
    """Each pair of turns is one open-ended question. LLaVA's ids may repeat, so the record's number is part of ours."""
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise QuestionError(f"{place}: key 'conversations' has to be a list of pairs, a human turn and a gpt turn")
    texts = [_turn_text(turn, f"{place}: key 'conversations': turn {index}") for index, turn in enumerate(turns, start=1)]
    for index in range(0, len(turns), 2):
        if turns[index]["from"] not in ASKERS or turns[index + 1]["from"] not in ANSWERERS:
            raise QuestionError(f"{place}: key 'conversations': turns {index + 1} and {index + 2} must be human, then gpt")
        identifier = f"{record.get('id', 'record')}_{number}_{index // 2 + 1}"
        yield Question(identifier, task="", format="open_ended", question=texts[index], answer=texts[index + 1])


def _turn_text(turn: Any, place: str) -> str:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise QuestionError(f"{place} has to be a mapping with 'from' and 'value'")
    if not isinstance(turn["value"], str) or not (text := PLACEHOLDER.sub("", turn["value"]).strip()):
        raise QuestionError(f"{place}: 'value' is empty or no text")
    return text


def _video_name(record: dict[str, Any], place: str) -> str:
    """The video's path inside the folder of videos; LLaVA's files may hold the sub-folder in 'data_source'."""
    name = _text(record, "video", place)
    path = PurePosixPath(name)
    if "conversations" in record and "data_source" in record:
        path = PurePosixPath(_text(record, "data_source", place), path)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise QuestionError(f"{place}: key 'video': {name!r} must be a path inside the folder of videos")
    return str(path)


def _text(record: dict[str, Any], key: str, place: str) -> str:
    if key not in record:
        raise QuestionError(f"{place}: key '{key}' is missing{_did_you_mean(key, record)}")
    if not isinstance(record[key], str) or not record[key].strip():
        raise QuestionError(f"{place}: key '{key}' has to be a text that is not empty, not {record[key]!r}")
    if not record[key].isprintable() and any("\ud800" <= character <= "\udfff" for character in record[key]):
        raise QuestionError(f"{place}: key '{key}' has half a character (a lone surrogate): {record[key]!r}")
    return str(record[key]).strip()


def _identifier(record: dict[str, Any], place: str) -> str:
    identifier = record.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        raise QuestionError(f"{place}: key 'id' has to be a text or a whole number, not {identifier!r}")
    return str(identifier)


def _choice(record: dict[str, Any], key: str, default: str, choices: tuple[str, ...], place: str) -> Any:
    value = record.get(key, default)
    if value != default and value not in choices:
        raise QuestionError(f"{place}: key '{key}': there is no {value!r}{_did_you_mean(str(value), choices)}")
    return value


def _options(record: dict[str, Any], place: str) -> tuple[str, ...]:
    options = record.get("options", [])
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise QuestionError(f"{place}: key 'options' has to be a list of texts that are not empty, not {options!r}")
    texts = tuple(option.strip() for option in options)
    if len(set(texts)) < len(texts):
        raise QuestionError(f"{place}: key 'options' repeats an option: {options!r}")
    if len(texts) == 1 or len(texts) > MAX_OPTIONS:
        raise QuestionError(f"{place}: key 'options' has {len(texts)}; it takes 2 to {MAX_OPTIONS}")
    return texts


def _right_option(answer: str, options: tuple[str, ...], place: str) -> str:
    """The option that the answer names by its text, or else by its letter."""
    if answer in options:
        return answer
    letter = LETTER.fullmatch(answer)
    index = ord(letter[1]) - ord("A") if letter else len(options)
    if index >= len(options):
        raise QuestionError(f"{place}: key 'answer': {answer!r} is not among the options {list(options)!r}")
    return options[index]


def _evidence(record: dict[str, Any], place: str) -> tuple[tuple[float, float], ...]:
    intervals = record.get("evidence", [])
    if not isinstance(intervals, list) or not all(_is_interval(interval) for interval in intervals):
        raise QuestionError(f"{place}: key 'evidence' has to be a list of [start, end] in seconds, not {intervals!r}")
    return tuple((float(start), float(end)) for start, end in intervals)


def _is_interval(interval: Any) -> bool:
    if not isinstance(interval, list) or len(interval) != 2:
        return False
    if any(isinstance(moment, bool) or not isinstance(moment, int | float) for moment in interval):
        return False
    return 0 <= interval[0] <= interval[1] < math.inf


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
