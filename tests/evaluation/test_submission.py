"""Sets without public answers are not scored; their submissions have the form of the sites."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lit_hour.errors import QuestionError
from lit_hour.evaluation.item import QuestionSet
from lit_hour.evaluation.load_benchmark import load_benchmark
from lit_hour.evaluation.report.html import render_report
from lit_hour.evaluation.report.report import Report, build_report, read_report, write_report
from lit_hour.evaluation.submission import write_submission
from tests.evaluation import question_files

LONGVIDEOBENCH = [
    {key: value for key, value in record.items() if key != "correct_choice"}
    for record in question_files.LONGVIDEOBENCH
]
MLVU = [
    {
        "video": f"test_AR-{number}.mp4",
        "duration": 500.0,
        "question": "What is unusual?",
        "candidates": ["a", "b", "c", "d", "e", "f"],
        "question_type": "anomaly_reco",
        "question_id": f"AR_{number}",
    }
    for number in range(3)
]
CONTENT = {
    "egoschema_test": question_files.EGOSCHEMA,
    "longvideobench_test": LONGVIDEOBENCH,
    "mlvu_test": MLVU,
}


def load(name: str, content: list[dict[str, Any]], folder: Path) -> QuestionSet:
    (file,) = question_files.write_all({"questions.json": content}, folder)
    return load_benchmark(name, [file], max_invalid=0)


def evaluate(name: str, folder: Path, responses: tuple[str, ...]) -> tuple[Report, str]:
    """The report on responses to the first questions, and the line about the submission."""
    questions = load(name, CONTENT[name], folder)
    ids = [item.id for item in questions.items]
    report = build_report(questions, dict(zip(ids, responses, strict=False)), {}, {})
    return report, write_submission(questions, report, folder)


def test_egoschema_takes_option_indices_of_all_questions(tmp_path: Path) -> None:
    report, line = evaluate("egoschema_test", tmp_path, ("E", "I cannot tell"))
    with (tmp_path / "submission.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["q_uid", "answer"]
    ids = [record["q_uid"] for record in question_files.EGOSCHEMA]
    assert rows[1:] == [[ids[0], "4"], [ids[1], "-1"], [ids[2], "-1"]]
    assert "3 questions, 2 of them without an answer; the whole set has 5031)" in line
    assert report.skipped.keys() == {ids[2]}


def test_longvideobench_takes_letters_by_question_id(tmp_path: Path) -> None:
    evaluate("longvideobench_test", tmp_path, ("The best answer is D.", "E", "so"))
    submission = json.loads((tmp_path / "submission.json").read_text())
    assert submission == dict(
        zip([record["id"] for record in LONGVIDEOBENCH], ("D", "E", ""), strict=True)
    )


def test_mlvu_takes_a_list_of_ids_types_and_letters(tmp_path: Path) -> None:
    evaluate("mlvu_test", tmp_path, ("F) f", "B", "none"))
    assert json.loads((tmp_path / "test_res.json").read_text()) == [
        {"question_id": f"AR_{number}", "question_type": "anomaly_reco", "option": letter}
        for number, letter in enumerate(("F", "B", ""))
    ]


def test_nothing_is_scored_without_answers(tmp_path: Path) -> None:
    for name in CONTENT:
        report, _ = evaluate(name, tmp_path, ("A", "B", "C"))
        assert report.score.num_questions == 0 and report.score.accuracy is None
        assert report.wrong == report.needs_judge == [] and report.num_without_answer == 3
        assert report.summary().endswith(": 3 responses to questions without public answers")
        assert "Not judged" not in render_report(report)
        write_report(report, tmp_path / "report.json")
        assert read_report(tmp_path / "report.json") == report


def test_the_prompts_are_those_of_the_public_sets(tmp_path: Path) -> None:
    for name, public in (("egoschema", question_files.EGOSCHEMA), ("longvideobench", None)):
        files = question_files.write_all(question_files.FILES[name], tmp_path)
        scored = load_benchmark(name, files, 0).items
        test = {
            item.id: item for item in load(f"{name}_test", public or LONGVIDEOBENCH, tmp_path).items
        }
        assert [test[item.id].prompt for item in scored] == [item.prompt for item in scored]
    (item, *_) = load("mlvu_test", MLVU, tmp_path).items
    assert item.prompt.endswith("(F) f\nOnly give the best option.")
    assert item.answer_start == "Best Option: (" and item.videos == ("test_AR-0.mp4",)


def test_a_file_with_answers_is_not_a_test_set(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match=r"has an answer\. Set evaluation\.benchmark=longvideo"):
        load("longvideobench_test", question_files.LONGVIDEOBENCH, tmp_path)
    with pytest.raises(QuestionError, match="is not a file of MLVU test"):
        load("mlvu_test", question_files.MLVU, tmp_path)


def test_a_scored_set_has_no_submission(tmp_path: Path) -> None:
    (file,) = question_files.write_all(question_files.FILES["mlvu"], tmp_path)
    questions = load_benchmark("mlvu", [file], 0)
    assert write_submission(questions, build_report(questions, {}, {}, {}), tmp_path) == ""
