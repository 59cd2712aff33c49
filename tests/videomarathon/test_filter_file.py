"""`lit-hour filter`: the filters of annotation on a question file from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lit_hour.cli.main import main
from lit_hour.data.questions.file import read_questions
from lit_hour.errors import QuestionError, TeacherError
from tests.videomarathon.chat_server import ChatServer
from tests.videomarathon.factories import NOWHERE

BASE = {"video": "a.mp4", "options": ["a pear", "a fig", "a plum"], "answer": "a fig"}
RECORDS: list[dict[str, Any]] = [
    {**BASE, "id": "kept", "question": "What lies on the table?"},
    {**BASE, "id": "guessed", "question": "Which is always guessed?"},
    {**BASE, "id": "twice", "question": "Which is it?", "options": ["a fig", "The fig", "a pear"]},
    {
        **BASE,
        "id": "long",
        "question": "Who is it?",
        "options": ["Ida", "Eva", "the one who holds the red umbrella"],
        "answer": "C",
    },
    {**BASE, "id": "words", "question": "Where does the fig lie?"},
    {**BASE, "id": "again", "question": "What lies on the table?"},
    {"video": "b.mp4", "id": "part", "question": "What?", "answer": "It.", "start": 1, "end": 2},
    {
        "conversations": [
            {"from": "human", "value": "What is a fig?"},
            {"from": "gpt", "value": "A fruit."},
            {"from": "human", "value": "And a pear?"},
            {"from": "gpt", "value": "One too."},
        ]
    },
    {"video": "a.mp4", "id": "bad", "question": "What?"},
]
DROPPED = {
    "twice": "repeated_options",
    "long": "given_away_by_length",
    "words": "given_away_by_wording",
    "again": "near_duplicate",
}
SETTINGS = [
    "videomarathon.max_invalid_records=1",
    "videomarathon.filters.blind_trials=3",
    "videomarathon.client.max_retries=1",
    "videomarathon.client.backoff_seconds=0.02",
]


def answer(body: dict[str, Any]) -> str:
    """Guess the fig in one question, and a pear in the others."""
    text = body["messages"][-1]["content"][0]["text"]
    wanted = "a fig" if "always guessed" in text else "a pear"
    return json.dumps({"letter": re.search(rf"([A-Z])\. {wanted}", text)[1]})


def run_filter(tmp_path: Path, *words: str) -> dict[str, str]:
    """Return the filter that dropped each question, by its id."""
    (tmp_path / "q.json").write_text(json.dumps(RECORDS))
    main(["filter", str(tmp_path / "q.json"), str(tmp_path / "out"), *words, *SETTINGS])
    lines = (tmp_path / "out/dropped.jsonl").read_text().splitlines()
    dropped = [json.loads(line) for line in lines]
    assert [line["filter"] for line in dropped if "record" not in line] == ["wrong_format"]
    return {line["record"]["id"]: line["filter"] for line in dropped if "record" in line}


def kept_ids(tmp_path: Path) -> list[str]:
    samples = read_questions(tmp_path / "out/questions.json")
    return [question.id for sample in samples for question in sample.questions]


def test_texts_alone_are_filtered_without_a_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_filter(tmp_path) == DROPPED
    assert kept_ids(tmp_path)[:3] == ["kept", "guessed", "part"]
    samples = read_questions(tmp_path / "out/questions.json")
    assert samples[1].clip_seconds == (1.0, 2.0)
    assert [question.answer for question in samples[2].questions] == ["A fruit.", "One too."]
    printed = capsys.readouterr().out
    assert "5 of 9 questions are kept" in printed and "1 invalid records" in printed


def test_teacher_guesses_without_the_video_and_answers_once(tmp_path: Path) -> None:
    with ChatServer(answer) as server:
        words = ("--teacher", server.url, "--model", "teacher")
        assert run_filter(tmp_path, *words) == {**DROPPED, "guessed": "answered_blindly"}
        assert kept_ids(tmp_path)[:2] == ["kept", "part"]
        assert len(server.answered) == 6  # two questions, three trials
        run_filter(tmp_path, *words)
        assert len(server.answered) == 6


def test_missing_server_model_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="--model"):
        run_filter(tmp_path, "--teacher", NOWHERE)
    with pytest.raises(TeacherError, match=re.escape(NOWHERE)):
        run_filter(tmp_path, "--teacher", NOWHERE, "--model", "teacher")
    with pytest.raises(QuestionError, match=r"none\.json"):
        main(["filter", str(tmp_path / "none.json"), str(tmp_path / "out")])
