"""Charades-STA and QVHighlights are read as published; stated intervals are scored by their IoU."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.custom import load_custom
from lit_hour.evaluation.item import Item, QuestionSet
from lit_hour.evaluation.load_benchmark import load_benchmark
from lit_hour.evaluation.report.compare import compare
from lit_hour.evaluation.report.report import Report, build_report
from lit_hour.evaluation.scoring import score_response
from tests.evaluation import question_files

CHARADES = (
    "AO8RW 0.0 6.9##a person is putting a book on a shelf.\n3MSZA 24.3 30.4##person turn on.\n"
)
QVHIGHLIGHTS = [
    {
        "qid": 2579 + number,
        "query": "A girl cooks while talking.",
        "duration": 150,
        "vid": f"NUsG9BgSes0_{number}.0_150.0",
        "relevant_windows": [[0, 70], [78, 146]][: number + 1],
        "relevant_clip_ids": [0, 1],
        "saliency_scores": [[4, 1, 1], [4, 1, 1]],
    }
    for number in range(2)
]


def load_charades(folder: Path, text: str = CHARADES) -> QuestionSet:
    (folder / "charades_sta_test.txt").write_text(text)
    return load_benchmark("charades_sta", [folder / "charades_sta_test.txt"], 0)


def load_qvhighlights(folder: Path, content: list[dict[str, Any]]) -> QuestionSet:
    files = question_files.write_all({"highlight_val_release.jsonl": content}, folder)
    return load_benchmark("qvhighlights", files, 0)


def report_of(questions: QuestionSet, *responses: str) -> Report:
    ids = [item.id for item in questions.items]
    return build_report(questions, dict(zip(ids, responses, strict=True)), {}, {})


def test_charades_lines_are_parsed(tmp_path: Path) -> None:
    first, second = load_charades(tmp_path).items
    assert first.intervals == ((0.0, 6.9),) and first.videos == ("AO8RW.mp4",)
    assert '"a person is putting a book on a shelf"' in first.prompt and first.id == "AO8RW/1"
    assert second.intervals == ((24.3, 30.4),) and second.answer == "24.3 s to 30.4 s"


def test_qvhighlights_has_several_windows(tmp_path: Path) -> None:
    first, second = load_qvhighlights(tmp_path, QVHIGHLIGHTS).items
    assert (first.id, first.videos) == ("2579", ("NUsG9BgSes0_0.0_150.0.mp4",))
    assert second.intervals == ((0.0, 70.0), (78.0, 146.0)) and second.duration_seconds == 150
    assert second.groups == {"number of windows": ("2",)}


def test_bad_lines_and_windows_are_named(tmp_path: Path) -> None:
    for line in (
        "AO8RW 0.0##x",
        "AO8RW 6.9 0.0##reversed",
        "AO8RW 5 5##empty",
        "../x 0 1##outside",
    ):
        with pytest.raises(QuestionError, match=r"charades_sta_test\.txt: record 1"):
            load_charades(tmp_path, f"{line}\n")
    for windows in (None, [], [[70, 0]], [[0]], [["0", "1"]], [[-1, 5]], 3, [[0, float("inf")]]):
        with pytest.raises(QuestionError, match="column 'relevant_windows'"):
            load_qvhighlights(tmp_path, [{**QVHIGHLIGHTS[0], "relevant_windows": windows}])
    test_split = [{key: value for key, value in QVHIGHLIGHTS[0].items() if "relevant" not in key}]
    with pytest.raises(QuestionError, match=r"lacks relevant_windows; the test set is published"):
        load_qvhighlights(tmp_path, test_split)


def test_the_report_has_the_published_scores(tmp_path: Path) -> None:
    questions = load_charades(tmp_path)
    report = report_of(questions, "From 0:00 to 0:06.9.", "The event is at 30.4 - 24.3 seconds.")
    assert {name: metric.value for name, metric in report.metrics.items()} == {
        "mIoU": 0.5,
        "R@1 IoU 0.3": 0.5,
        "R@1 IoU 0.5": 0.5,
        "R@1 IoU 0.7": 0.5,
        "mIoU of all intervals": 0.5,
    }
    assert report.metrics["mIoU"].interval == (0.0, 1.0)
    assert report.score.accuracy == 0.5 and [item.id for item in report.unmatched] == ["3MSZA/2"]
    assert report.summary().startswith("Charades-STA test: mIoU 50.0% (0.0 to 100.0); R@1 IoU 0.3 ")


def test_several_windows_count_as_published_and_together(tmp_path: Path) -> None:
    questions = load_qvhighlights(tmp_path, QVHIGHLIGHTS)
    report = report_of(questions, "0 s to 70 s", "78 s to 146 s")
    assert report.metrics["mIoU"].value == 1.0
    assert report.metrics["mIoU of all intervals"].value == pytest.approx((1 + 68 / 138) / 2)
    beyond = report_of(questions, "0 s to 700 s", "160 s to 170 s")
    assert beyond.results[0].chosen == "0.0 s to 150.0 s" and beyond.results[1].chosen is None


def test_compare_has_paired_differences(tmp_path: Path) -> None:
    questions = load_charades(tmp_path)
    good = report_of(questions, "0 s to 6.9 s", "24.3 s to 30.4 s")
    bad = report_of(questions, "0 s to 6.9 s", "nothing")
    assert compare(good, bad).metrics["mIoU"].text == "+50.0 (+0.0 to +100.0)"
    assert compare(good, bad).difference == 0.5


def test_own_questions_with_interval_answers_are_scored_by_iou(tmp_path: Path) -> None:
    record = {"id": "q1", "video": "a.mp4", "question": "When?", "answer": "5.0 s to 8.0 s"}
    other = {"id": "q2", "video": "a.mp4", "question": "What?", "answer": "A red ball"}
    (tmp_path / "own.json").write_text(json.dumps([record, other]))
    questions = load_custom([tmp_path / "own.json"], lambda question: question.question, "Own")
    first, second = questions.items
    assert (first.rule, first.intervals, second.rule) == ("intervals", ((5.0, 8.0),), "words")
    verdict = partial(score_response, first)
    assert verdict("0:05 to 0:07").correct and not verdict("8 s to 5 s").correct
    report = report_of(questions, "5 s to 8 s", "a red ball")
    assert report.metrics["mIoU"].num_questions == 1 and report.score.accuracy == 1.0


def test_an_item_without_a_duration_is_not_cut() -> None:
    item = Item(
        "1", ("a.mp4",), "?", "?", {}, "5.0 s to 9000.0 s", "intervals", {}, "here",
        intervals=((5.0, 9000.0),),
    )  # fmt: skip
    assert score_response(item, "5 s to 9000 s").correct
