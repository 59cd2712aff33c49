"""Preference pairs of other projects become an answer and a rejected one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.packing.pack import pack
from lit_hour.data.questions.file import read_questions
from lit_hour.data.questions.record import parse_question, question_record
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import QuestionError
from lit_hour.types import Question

USER = {"role": "user", "content": "<video>\nWhat is shown?"}
GOOD = {"role": "assistant", "content": "A counter."}
BAD = {"role": "assistant", "content": "A wall."}
HUMAN = {"from": "human", "value": "<video>\nWhat is shown?"}
PAIR = {"video": "a.mp4", "prompt": "<video>\nWhat is shown?"}


def read_one(folder: Path, record: dict[str, Any]) -> Question:
    file = folder / "questions.json"
    file.write_text(json.dumps([record]), encoding="utf-8")
    (sample,) = read_questions(file)
    assert sample.files == ("a.mp4",) and sample.modality == "video"
    (question,) = sample.questions
    return question


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(PAIR | {"chosen": "A counter.", "rejected": "A wall."}, id="trl"),
        pytest.param(
            {"video": "a.mp4", "prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
            id="trl-conversational",
        ),
        pytest.param(
            {"video": "a.mp4", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            id="trl-implicit-prompt",
        ),
        pytest.param(
            {
                "video": "a.mp4",
                "prompt": [
                    {"role": "user", "content": [{"type": "text", "text": "What is shown?"}]}
                ],
                "chosen": [
                    {"role": "assistant", "content": [{"type": "text", "text": "A counter."}]}
                ],
                "rejected": [BAD],
            },
            id="trl-content-parts",
        ),
        pytest.param(
            PAIR
            | {
                "id": "7",
                "answer": "The true one.",
                "chosen": "A counter.",
                "rejected": "A wall.",
                "chosen_score": 5,
                "rejected_score": 2,
            },
            id="llava-hound",
        ),
        pytest.param(
            {
                "videos": ["a.mp4"],
                "conversations": [HUMAN],
                "chosen": {"from": "gpt", "value": "A counter."},
                "rejected": {"from": "gpt", "value": "A wall."},
            },
            id="llama-factory",
        ),
        pytest.param(
            {"videos": ["a.mp4"], "messages": [USER, GOOD], "rejected_response": "A wall."},
            id="ms-swift",
        ),
        pytest.param(
            {
                "video": "a.mp4",
                "question": "What is shown?",
                "answer": "A counter.",
                "rejected": "A wall.",
                "chosen": None,
            },
            id="own",
        ),
    ],
)
def test_pair_of_each_project_is_read(tmp_path: Path, record: dict[str, Any]) -> None:
    question = read_one(tmp_path, record)
    assert question.question.strip() == "What is shown?"
    assert (question.answer, question.rejected) == ("A counter.", "A wall.")
    assert parse_question(question_record(question), "here") == question


def test_options_of_a_pair_are_named_by_letter_or_text(tmp_path: Path) -> None:
    record = {"video": "a.mp4", "question": "Which?", "options": ["x", "y", "z"], "answer": "B"}
    question = read_one(tmp_path, record | {"rejected": "C"})
    assert (question.answer, question.rejected) == ("y", "z")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (PAIR | {"chosen": "A."}, "'rejected' is missing"),
        (PAIR | {"chosen": "A.", "rejected": ""}, "'rejected' is missing"),
        (PAIR | {"chosen": "A.", "rejected": "A. "}, "is the chosen answer too"),
        (PAIR | {"chosen": "A.", "rejected": {"score": 1}}, "must be a text"),
        (PAIR | {"chosen": 3, "rejected": "B."}, "'chosen' must be a text"),
        ({"video": "a.mp4", "chosen": "A.", "rejected": "B."}, "'prompt' is missing"),
        (
            {"video": "a.mp4", "chosen": [USER, GOOD], "rejected": [HUMAN, BAD]},
            "begin with the same messages",
        ),
        (
            {"video": "a.mp4", "prompt": [USER, GOOD, USER], "chosen": [GOOD], "rejected": [BAD]},
            "one question and its answer, not 4 turns",
        ),
        (
            {
                "video": "a.mp4",
                "question": "Which?",
                "options": ["x", "y"],
                "answer": "x",
                "rejected": "C",
            },
            "'rejected': 'C' is not among the options",
        ),
    ],
)
def test_incomplete_pair_is_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(QuestionError, match=message):
        read_one(tmp_path, record)


def test_question_without_a_pair_is_stored_as_before() -> None:
    question = Question("1", "", "open_ended", "What?", "That.")
    assert "rejected" not in question_record(question)
    assert question_record(replace(question, rejected="No."))["rejected"] == "No."


def test_pairs_are_packed_with_their_sample(tmp_path: Path) -> None:
    records = [{"prompt": "Which?", "chosen": "This.", "rejected": "That."}]
    (tmp_path / "questions.json").write_text(json.dumps(records), encoding="utf-8")
    shards = tmp_path / "shards"
    pack(tmp_path, tmp_path / "questions.json", shards, VideoConfig(), PackConfig(num_workers=1))
    packed = open_shards(shards)
    (question,) = packed.read(packed.entries[0]).questions
    assert (question.answer, question.rejected) == ("This.", "That.")
