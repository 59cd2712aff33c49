"""The project's own question files get the prompts of training, and no record is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.custom import load_custom
from lit_hour.evaluation.scoring import score_response
from lit_hour.types import Question

CHOICE: dict[str, Any] = {
    "id": "q1",
    "video": "a.mp4",
    "task": "object/object_attribute",
    "question": "Color?",
    "options": ["red", "blue"],
}
RECORDS: list[dict[str, Any]] = [
    {**CHOICE, "answer": "blue"},
    {"id": "q2", "video": "b/c.mp4", "question": "What is it?", "answer": "A red ball"},
]


def format_prompt(question: Question) -> str:
    return f"Please: {question.question}"


def write(folder: Path, name: str, records: list[dict[str, Any]]) -> Path:
    (folder / name).write_text(json.dumps(records))
    return folder / name


def test_custom_files_are_parsed_into_items(tmp_path: Path) -> None:
    questions = load_custom([write(tmp_path, "world.json", RECORDS)], format_prompt, "World")
    choice, free = questions.items
    assert (
        choice.prompt == "Please: Color?"
        and choice.answer == "B"
        and choice.options == {"A": "red", "B": "blue"}
    )
    assert choice.groups == {"format": ("multiple choice",), "task": ("object/object_attribute",)}
    assert choice.videos == ("a.mp4",)
    assert (
        score_response(choice, "blue").correct
        and score_response(choice, "B").correct
        and not score_response(choice, "A").correct
    )
    assert (
        free.rule == "words"
        and free.groups == {"format": ("open ended",)}
        and score_response(free, "a red ball").correct
    )
    assert (
        questions.title == "World" and questions.num_published is None and len(questions.files) == 1
    )


@pytest.mark.parametrize(
    "second, message",
    [
        (
            [RECORDS[0]],
            r"second\.json: question 'q1': the id is taken by .*first\.json: question 'q1'",
        ),
        (
            [{"id": "q3", "image": "a.png", "question": "What?", "answer": "A cat"}],
            r"a\.png is not a video",
        ),
        ([{**CHOICE, "id": "q3", "answer": "green"}], "'green' is not among the options"),
        (
            [{**CHOICE, "id": "q3", "answer": "red", "video": "../a.mp4"}],
            "must be a path inside the folder",
        ),
        ([], "contains no questions"),
    ],
)
def test_invalid_files_are_refused(
    second: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    files = [write(tmp_path, "first.json", RECORDS), write(tmp_path, "second.json", second)]
    with pytest.raises(QuestionError, match=message):
        load_custom(files, format_prompt, "World")
