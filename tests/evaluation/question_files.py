"""Question files in the layout of each published benchmark: small made-up ones, and the synthetic
videos' multiple-choice questions converted to each layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VIDEO_MME = [
    {
        "video_id": f"{video:03}",
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "url": f"https://www.youtube.com/watch?v=abcdefghi-{video}",
        "videoID": f"abcdefghi-{video}",
        "question_id": f"{video:03}-{number}",
        "task_type": "Counting Problem",
        "question": "How many moons are there?",
        "options": ["A. 4.", "B. 9.", "C. 5.", "D. 13."],
        "answer": "B",
    }
    for video, duration in enumerate(("short", "medium", "long"), start=1)
    for number in (1, 2)
]
VIDEO_MME_AUTHORS = [
    {
        "video_id": "001",
        "duration_category": "short",
        "video_category": "Knowledge",
        "video_sub_category": "Astronomy",
        "url": "https://www.youtube.com/watch?v=abcdefghi-1",
        "questions": [
            {
                "question_id": f"001-{number}",
                "task_type": "Counting Problem",
                "question": "How many moons are there?",
                "choices": ["A. 4.", "B. 9.", "C. 5.", "D. 13."],
                "answer": "B",
            }
            for number in (1, 2)
        ],
    }
]
LVBENCH = [
    {
        "key": "Cm73ma6Ibcs",
        "type": "tv",
        "video_info": {"duration_minutes": 70},
        "qa": [
            {
                "uid": "0",
                "question": "Who wins?\n(A) The red team\n(B) The blue team\n(C) Nobody\n(D) Both",
                "answer": "D",
                "question_type": ["entity recognition", "reasoning"],
                "time_reference": "00:10-00:20",
            },
            {
                "uid": 1,
                "question": "Who loses?\n(A) The red team\n(B) The blue team\n(C) Nobody\n(D) Both",
                "answer": "A",
                "question_type": ["temporal grounding"],
                "time_reference": "00:30-00:40",
            },
        ],
    }
]
LONGVIDEOBENCH = [
    {
        "video_id": "86CxyhFV9MI",
        "question": "Which subtitle comes when the man in the blue shirt appears?",
        "question_wo_referring_query": "Which subtitle comes?",
        "candidates": ["promisc", "run", "the end", "hello", "goodbye"][:num_options],
        "correct_choice": choice,
        "topic_category": "NP-News-Programs",
        "question_category": "TOS",
        "level": "L2-Relation",
        "id": f"86CxyhFV9MI_{choice}",
        "video_path": "86CxyhFV9MI.mp4",
        "subtitle_path": "86CxyhFV9MI_en.json",
        "duration_group": seconds,
        "starting_timestamp_for_subtitles": 0,
        "duration": 190.16,
        "view_count": 259852,
    }
    for num_options, choice, seconds in ((4, 1, 3600), (5, 4, 15), (2, 0, 600))
]
MLVU = [
    {
        "video": f"ego_{number}.mp4",
        "duration": 408.5,
        "question": "What did I put in the trashcan ",
        "candidates": ["a sponge", "a pen", "a pen", "an apple"],
        "answer": answer,
        "question_type": "ego",
    }
    for number, answer in enumerate(("a sponge", "a pen"))
]
TEMPCOMPASS = {
    "1034419625": {
        "action": [
            {
                "question": "What does the man do?\nA. dunks a ball\nB. throws a ball",
                "answer": "B. throws a ball",
            }
        ],
        "speed": [
            {
                "question": "Is it fast?\nA. yes\nB. no\nC.Nobody can say",
                "answer": "C.Nobody can say",
            }
        ],
    }
}
EGOSCHEMA = [
    {
        "q_uid": f"0074f737-11cb-{number}",
        "google_drive_id": "1dZ0",
        "question": "What does c do?",
        **{f"option {index}": f"C does thing {index}." for index in range(5)},
    }
    for number in range(3)
]
EGOSCHEMA_ANSWERS = {"0074f737-11cb-0": 3, "0074f737-11cb-2": 0}

FILES: dict[str, dict[str, Any]] = {
    "video_mme": {"test.jsonl": VIDEO_MME},
    "lvbench": {"video_info.meta.jsonl": LVBENCH},
    "longvideobench": {"lvb_val.json": LONGVIDEOBENCH},
    "mlvu": {"3_ego.json": MLVU},
    "tempcompass": {"multi-choice.json": TEMPCOMPASS},
    "egoschema": {"questions.json": EGOSCHEMA, "subset_answers.json": EGOSCHEMA_ANSWERS},
}
NUM_ITEMS = {
    "video_mme": 6,
    "lvbench": 2,
    "longvideobench": 3,
    "mlvu": 2,
    "tempcompass": 2,
    "egoschema": 2,
}


def write_all(contents: dict[str, Any], folder: Path) -> list[Path]:
    """The files, written as JSON or JSON lines."""
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        lines = (
            [json.dumps(record) for record in content]
            if name.endswith(".jsonl")
            else [json.dumps(content)]
        )
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [folder / name for name in contents]


NUM_OPTIONS = 4
LETTERS = "ABCDE"


def choice_records(questions: Path) -> list[dict[str, Any]]:
    """The multiple-choice records of a question file that have four options."""
    records = json.loads(questions.read_text(encoding="utf-8"))
    return [record for record in records if len(record.get("options", ())) == NUM_OPTIONS]


def convert(name: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Records as the files of a benchmark: the content of each file by its name."""
    return CONVERTERS[name]([{**record, "stem": Path(record["video"]).stem} for record in records])


def _letter(record: dict[str, Any]) -> str:
    return LETTERS[record["options"].index(record["answer"])]


def _video_mme(records: list[dict[str, Any]]) -> dict[str, Any]:
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
                    f"{letter}. {text}"
                    for letter, text in zip(LETTERS, record["options"], strict=False)
                ],
                "answer": _letter(record),
            }
            for record in records
        ]
    }


def _lvbench(records: list[dict[str, Any]]) -> dict[str, Any]:
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
            for record in records
        ]
    }


def _longvideobench(records: list[dict[str, Any]]) -> dict[str, Any]:
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
            for record in records
        ]
    }


def _mlvu(records: list[dict[str, Any]]) -> dict[str, Any]:
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
            for record in records
        ]
    }


def _tempcompass(records: list[dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for record in records:
        lines = [
            f"{letter}. {text}" for letter, text in zip(LETTERS, record["options"], strict=False)
        ]
        answer = lines[record["options"].index(record["answer"])]
        question = {"question": "\n".join([record["question"], *lines]), "answer": answer}
        content.setdefault(record["stem"], {}).setdefault("action", []).append(question)
    return {"multi-choice.json": content}


def _egoschema(records: list[dict[str, Any]]) -> dict[str, Any]:
    """One question about each video, which has the question's name."""
    first = {record["stem"]: record for record in reversed(records)}
    questions = [
        {
            "q_uid": stem,
            "question": record["question"],
            **{
                f"option {index}": text
                for index, text in enumerate([*record["options"], "none of these"])
            },
        }
        for stem, record in first.items()
    ]
    answers = {stem: record["options"].index(record["answer"]) for stem, record in first.items()}
    return {"questions.json": questions, "subset_answers.json": answers}


CONVERTERS = {
    "video_mme": _video_mme,
    "lvbench": _lvbench,
    "longvideobench": _longvideobench,
    "mlvu": _mlvu,
    "tempcompass": _tempcompass,
    "egoschema": _egoschema,
}
