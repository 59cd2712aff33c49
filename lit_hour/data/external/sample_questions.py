"""The questions of a sample of another project's tar, by a mapping of fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lit_hour.config.field_mapping import FieldMapping
from lit_hour.data.external.sample_members import JSON_SUFFIXES, TEXT_SUFFIXES
from lit_hour.data.questions.file import parse_record
from lit_hour.data.questions.record import Modality
from lit_hour.errors import QuestionError
from lit_hour.types import Question

MAX_SECONDS = 1e9  # 30 years


def parse_questions(
    texts: Mapping[str, Any],
    fields: FieldMapping,
    modality: Modality,
    num_files: int,
    location: str,
) -> tuple[tuple[Question, ...], str]:
    """Return the questions in the JSON and text members of a sample, and its system prompt.

    Args:
        texts: decoded members by their suffixes.
        fields: keys of the JSON.
        modality: of the sample.
        num_files: number of its videos or images.
        location: of the sample, for errors.

    Raises:
        QuestionError: there is no question, or one is invalid.
    """
    files = _stand_ins(modality, num_files)
    records = [
        parse_record({**record, **files}, number, location)
        for number, record in enumerate(_records(texts, fields, modality), start=1)
    ]
    questions = tuple(question for record in records for question in record.questions)
    if not questions:
        raise QuestionError(
            f"{location} has none of the fields {fields.conversations}, {fields.questions},"
            f" {fields.question} and {fields.caption}, and no text. Name its fields in a mapping."
        )
    prompts = {record.system_prompt for record in records}
    if len(prompts) > 1:
        raise QuestionError(f"{location} has {len(prompts)} system prompts. Give it one.")
    return questions, prompts.pop()


def _stand_ins(modality: Modality, num_files: int) -> dict[str, Any]:
    """Return the files of a record: the rules of its placeholders depend on their number."""
    if modality == "text":
        return {}
    names = [f"{number}" for number in range(num_files)]
    return {modality: names if modality == "images" else names[0]}


def frame_times(texts: Mapping[str, Any], fields: FieldMapping, num_images: int) -> list[float]:
    """Return the time of each frame of an image sequence, in seconds from the first.

    Raises:
        QuestionError: the field of the times is not a rising list of a number per frame.
    """
    times = find_field(_json(texts), fields.timestamps)
    if times is None:
        return [number / fields.frames_per_second for number in range(num_images)]
    is_list = isinstance(times, list) and all(
        isinstance(time, int | float)
        and not isinstance(time, bool)
        and abs(time) <= MAX_SECONDS  # false for NaN
        for time in times
    )
    if not is_list or len(times) != num_images or sorted(set(times)) != times:
        raise QuestionError(
            f"{fields.timestamps} must be a list of {num_images} rising times, one per frame."
        )
    return [float(time - times[0]) for time in times]


def find_field(record: Any, name: str) -> Any:
    """Return the value of a key, which may lead into nested mappings as `a.b`; None if missing."""
    if isinstance(record, dict) and name in record:
        return record[name]
    for part in name.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record


def _records(
    texts: Mapping[str, Any], fields: FieldMapping, modality: Modality
) -> Iterator[dict[str, Any]]:
    """Yield records as in a question file."""
    record = _json(texts)
    if turns := find_field(record, fields.conversations):
        yield {"conversations": turns}
        return
    listed = record if isinstance(record, list) else find_field(record, fields.questions)
    listed = listed if isinstance(listed, list) else [record]
    found = False
    for item in listed:
        if find_field(item, fields.question) is not None:
            names = {
                "question": fields.question,
                "answer": fields.answer,
                "options": fields.options,
            }
            values = {key: find_field(item, name) for key, name in names.items()}
            yield {key: value for key, value in values.items() if value not in (None, [])}
            found = True
    caption = find_field(record, fields.caption)
    if caption is None:
        caption = next((texts[suffix] for suffix in TEXT_SUFFIXES if suffix in texts), None)
    if not found and modality != "text" and caption is not None:
        yield {"question": fields.prompt, "answer": caption}


def _json(texts: Mapping[str, Any]) -> Any:
    """Return the JSON member of a sample; of several the one with the shortest suffix."""
    names = [suffix for suffix in texts if suffix.rpartition(".")[2] in JSON_SUFFIXES]
    return texts[min(names, key=lambda suffix: (len(suffix), suffix))] if names else None
