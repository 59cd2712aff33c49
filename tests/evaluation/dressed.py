"""Videos of the world with their multiple-choice questions, in the layout of each published benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NUM_OPTIONS = 4
LETTERS = "ABCDE"


def choices_of(questions: Path) -> list[dict[str, Any]]:
    """The multiple-choice records of a set that have four options."""
    records = json.loads(questions.read_text(encoding="utf-8"))
    return [record for record in records if len(record.get("options", ())) == NUM_OPTIONS]


def dress(name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """File name -> content, as the benchmark publishes it; videos are named by their stems."""
    return globals()[f"_{name}"](
        [{**record, "stem": Path(record["video"]).stem} for record in choices]
    )


def _letter(record: dict[str, Any]) -> str:
    return LETTERS[record["options"].index(record["answer"])]


def _video_mme(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "test.jsonl": [
            {
                "videoID": record["stem"],
                "duration": "short",
                "domain": "Knowledge",
                "sub_category": "Astronomy",
                "question_id": record["id"],
                "task_type": record["task"],
                "question": record["question"],
                "options": [
                    f"{letter}. {words}"
                    for letter, words in zip(LETTERS, record["options"], strict=False)
                ],
                "answer": _letter(record),
            }
            for record in choices
        ]
    }


def _lvbench(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "video_info.meta.jsonl": [
            {
                "key": record["stem"],
                "qa": [
                    {
                        "uid": record["id"],
                        "question": "\n".join(
                            [
                                record["question"],
                                *(
                                    f"({a}) {b}"
                                    for a, b in zip(LETTERS, record["options"], strict=False)
                                ),
                            ]
                        ),
                        "answer": _letter(record),
                        "question_type": ["reasoning"],
                    }
                ],
            }
            for record in choices
        ]
    }


def _longvideobench(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "lvb_val.json": [
            {
                "id": record["id"],
                "video_path": record["video"],
                "question": record["question"],
                "candidates": record["options"],
                "correct_choice": record["options"].index(record["answer"]),
                "duration_group": 60,
                "level": "L1-Perception",
                "question_category": "S2E",
            }
            for record in choices
        ]
    }


def _mlvu(choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "3_ego.json": [
            {
                "video": record["video"],
                "duration": 30.0,
                "question": record["question"],
                "candidates": record["options"],
                "answer": record["answer"],
                "question_type": "ego",
            }
            for record in choices
        ]
    }


def _tempcompass(choices: list[dict[str, Any]]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    for record in choices:
        lines = [
            f"{letter}. {words}" for letter, words in zip(LETTERS, record["options"], strict=False)
        ]
        answer = lines[record["options"].index(record["answer"])]
        question = {"question": "\n".join([record["question"], *lines]), "answer": answer}
        asked.setdefault(record["stem"], {}).setdefault("action", []).append(question)
    return {"multi-choice.json": asked}


def _egoschema(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """One question about each video, which has the question's name."""
    first = {record["stem"]: record for record in reversed(choices)}
    questions = [
        {
            "q_uid": stem,
            "question": record["question"],
            **{
                f"option {place}": words
                for place, words in enumerate([*record["options"], "none of these"])
            },
        }
        for stem, record in first.items()
    ]
    answers = {stem: record["options"].index(record["answer"]) for stem, record in first.items()}
    return {"questions.json": questions, "subset_answers.json": answers}
