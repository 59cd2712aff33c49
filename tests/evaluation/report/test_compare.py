"""Two reports on the same benchmark are compared on the questions that both answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lit_hour.config.diff import ABSENT
from lit_hour.errors import ReportError
from lit_hour.evaluation.report.compare import compare
from lit_hour.evaluation.report.report import build_report
from lit_hour.evaluation.scoring import mcnemar
from tests.evaluation.factories import PROTOCOL, make_question_set, make_report, respond


def test_a_report_does_not_differ_from_itself() -> None:
    report = make_report(respond("ABAAABBB"))
    comparison = compare(report, report)
    assert comparison.difference == 0 and comparison.p_value == 1 and comparison.interval == (0, 0)
    assert (
        comparison.only_first_correct == comparison.only_second_correct == ()
        and comparison.protocol_differences == {}
    )


def test_the_questions_with_different_verdicts_decide() -> None:
    first, second = (
        make_report(respond("AB" * 20), num_videos=20),
        make_report(respond("AB" * 10 + "BB" * 9 + "AB"), num_videos=20),
    )
    comparison = compare(first, second)
    assert (comparison.num_shared, comparison.first_accuracy, comparison.second_accuracy) == (
        40,
        1.0,
        31 / 40,
    )
    assert len(comparison.only_first_correct) == 9 and comparison.only_second_correct == ()
    assert comparison.p_value == mcnemar(9, 0) == 2 / 2**9
    low, high = comparison.interval or (0, 0)
    assert 0 < low < comparison.difference < high
    mirrored = compare(second, first)
    assert mirrored.difference == -comparison.difference and mirrored.p_value == comparison.p_value
    assert comparison.groups["length"]["60"] == (
        20,
        1.0,
        0.75,
    )  # five of the nine wrong answers are about its ten videos


def test_only_shared_questions_count_and_others_are_listed() -> None:
    comparison = compare(
        make_report({"0-0": "A", "0-1": "A", "1-0": "B"}),
        make_report({"0-0": "B", "1-0": "A", "2-1": "B"}),
    )
    assert (
        comparison.num_shared == 2
        and comparison.only_in_first == ("0-1",)
        and comparison.only_in_second == ("2-1",)
    )
    assert [(one.id, two.id) for one, two in comparison.only_first_correct] == [("0-0", "0-0")]


def test_protocol_differences_are_listed() -> None:
    questions = make_question_set()
    prompted = replace(
        questions,
        items=tuple(replace(item, prompt="Look!") for item in questions.items),
        files={"q.json": "cd"},
    )
    other = {"frames": 128, "decoding": {"temperature": 0}, "seed": 3}
    differences = compare(
        build_report(questions, {"0-0": "A"}, {}, PROTOCOL),
        build_report(prompted, {"0-0": "A"}, {}, other),
    ).protocol_differences
    assert differences["frames"] == (64, 128) and differences["seed"] == (ABSENT, 3)
    assert differences["versions.lit_hour"] == ("0.1.0", ABSENT) and differences[
        "question file.q.json"
    ] == ("ab", "cd")
    assert {
        "prompts.first prompt",
        "prompts.digest",
    } < differences.keys() and "decoding.temperature" not in differences


def test_reports_on_different_questions_are_refused() -> None:
    report = make_report({"0-0": "A"})
    with pytest.raises(
        ReportError, match="A report on Colors & shapes and a report on Sounds cannot be compared"
    ):
        compare(report, replace(report, benchmark="sounds", title="Sounds"))
    with pytest.raises(ReportError, match="share no question"):
        compare(report, make_report({"0-1": "A"}))
    changed = replace(report, results=(replace(report.results[0], answer="B"),))
    with pytest.raises(ReportError, match="Question '0-0' or its true answer is not the same"):
        compare(report, changed)
