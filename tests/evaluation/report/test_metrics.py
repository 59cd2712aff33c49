"""Published scores: means over tasks with equal weights, grades of a judge, and their intervals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.evaluation.benchmarks import mlvu
from lit_hour.evaluation.item import QuestionSet
from lit_hour.evaluation.report.compare import compare
from lit_hour.evaluation.report.html import render_comparison, render_report
from lit_hour.evaluation.report.metrics import QuestionValue, mean_interval, mean_value
from lit_hour.evaluation.report.report import Report, build_report, read_report, write_report
from lit_hour.evaluation.report.text import summarize
from lit_hour.evaluation.scoring import Judgment, bootstrap_interval
from tests.evaluation.factories import make_question_set

CHOICE_TASKS, GENERATION_TASKS = (
    tuple(tasks) for tasks in (mlvu.FOLDER_OF_CHOICE_TASK, mlvu.FOLDER_OF_GENERATION_TASK)
)


def mlvu_questions() -> QuestionSet:
    """Task number n has n + 2 videos with a question; then one of each generation task."""
    choice, *_, free = make_question_set(num_judged=1).items
    items = [
        replace(choice, id=f"{task}-{n}", videos=(f"{task}-{n}.mp4",), groups={"task": (task,)})
        for number, task in enumerate(CHOICE_TASKS)
        for n in range(number + 2)
    ]
    items += [
        replace(free, id=f"{task}-{n}", videos=(f"{task}-{n}.mp4",), groups={"task": (task,)})
        for task in GENERATION_TASKS
        for n in range(2)
    ]
    return QuestionSet("mlvu", "MLVU dev", tuple(items), metrics=mlvu.BENCHMARK.metrics)


def mlvu_report(answer: str = "A", grade: float | None = 4.0, without: str = "-") -> Report:
    """The first task is answered correctly and the others with `answer`."""
    questions = mlvu_questions()
    responses = {
        item.id: "A" if item.id.startswith(CHOICE_TASKS[0]) else answer
        for item in questions.items
        if not item.id.startswith(without)
    }
    judgments = {
        key: Judgment({"accuracy": grade, "relevance": 5.0, "total": grade + 5.0}, None, "Good.")
        for key in responses
        if grade and key.startswith(GENERATION_TASKS)
    }
    return build_report(questions, responses, {}, {}, judgments)


def test_m_avg_weighs_tasks_equally_and_g_avg_adds_both_grades() -> None:
    report = mlvu_report("B")
    num_questions = sum(range(2, 9))
    assert report.metrics["M-Avg"].value == pytest.approx(1 / 7)
    assert report.score.accuracy == pytest.approx(2 / num_questions)
    assert report.metrics["M-Avg"].num_questions == num_questions == report.score.num_evaluated
    assert report.metrics["G-Avg"].value == 9.0 and report.metrics["G-Avg"].num_questions == 4
    assert report.summary().startswith("MLVU dev: M-Avg 14.3% (14.3 to 14.3); G-Avg 9.00 of 10 (")
    assert "M-Avg 14.3%" in render_report(report) and "M-Avg" in summarize(report, Path("out"))


def test_a_task_without_responses_leaves_no_average() -> None:
    assert list(mlvu_report(without="plotQA").metrics) == ["G-Avg"]
    assert list(mlvu_report(without="summary").metrics) == ["M-Avg"]


def test_without_a_judge_responses_are_listed_as_not_judged() -> None:
    report = mlvu_report(grade=None)
    assert list(report.metrics) == ["M-Avg"] and len(report.needs_judge) == 4
    assert "4 responses not judged, in no score" in summarize(report, Path("out"))
    page = render_report(report)
    assert "<h2>Not judged</h2>" in page and "Not judged" not in render_report(mlvu_report())


def test_reports_with_metrics_round_trip(tmp_path: Path) -> None:
    report = mlvu_report()
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report


def test_metrics_are_compared_question_by_question() -> None:
    comparison = compare(mlvu_report("A", 4.0), mlvu_report("B", 2.5))
    metric = comparison.metrics["M-Avg"]
    assert (metric.first, metric.second) == (1.0, pytest.approx(1 / 7))
    assert comparison.metrics["G-Avg"].text == "+1.50 (+1.50 to +1.50)"
    assert "+85.7 (+85.7 to +85.7)" in render_comparison(comparison, "one", "two")


def test_reports_of_graded_responses_alone_are_compared() -> None:
    questions = mlvu_questions()
    items = [item for item in questions.items if item.rule == "needs_judge"]
    first, second = (
        build_report(
            replace(questions, items=tuple(items)),
            dict.fromkeys([item.id for item in items], "A story"),
            {},
            {},
            {item.id: Judgment({"total": total}, None, "") for item in items},
        )
        for total in (8.0, 5.0)
    )
    comparison = compare(first, second)
    assert comparison.difference is None and comparison.first_accuracy is None
    assert comparison.metrics["G-Avg"].text.startswith("+3.00")
    assert "+3.00" in render_comparison(comparison, "one", "two")


def test_the_interval_of_a_mean_over_tasks_resamples_each_task() -> None:
    values = [QuestionValue(float(n % 2), f"{task}{n}", task) for task in "ab" for n in range(40)]
    rare = [QuestionValue(float(n % 2), f"c{n}", "c") for n in range(2)]
    assert mean_value(values + rare, "abc") == 0.5
    low, high = mean_interval(values, "ab") or (0, 0)
    wide_low, wide_high = mean_interval(values + rare, "abc") or (0, 0)
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65
    assert wide_low < low - 0.05 and wide_high > high + 0.05, "two videos say little of a task"
    assert mean_interval([*values, QuestionValue(1.0, "d", "d")], "abd") is None


def test_without_tasks_the_interval_is_that_of_all_questions() -> None:
    values, videos = [0.0, 1.0, 1.0, 0.5] * 5, [str(n // 2) for n in range(20)]
    named = bootstrap_interval(values, videos, tasks=["one"] * 20)
    assert named == bootstrap_interval(values, videos) is not None
