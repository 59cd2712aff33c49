"""Every question counts once: correct, wrong, unmatched, skipped, invalid, or for a judge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.errors import ReportError
from lit_hour.evaluation.report.html import render_report
from lit_hour.evaluation.report.report import (
    NO_REASON,
    build_report,
    mark_seen,
    read_report,
    write_report,
)
from lit_hour.evaluation.report.text import summarize
from tests.evaluation.factories import PROTOCOL, make_question_set, make_report, respond


def test_every_question_is_counted() -> None:
    responses = {"0-0": "A", "0-1": "A", "1-0": "red", "1-1": "maybe", "2-0": " "}
    report = make_report(responses, {"3-0": "video video_3.mp4 is missing"})
    score = report.score
    assert (
        score.num_questions,
        score.num_evaluated,
        score.num_answered,
        score.num_unmatched,
        score.num_correct,
    ) == (9, 5, 4, 1, 2)
    assert score.accuracy == 2 / 5
    assert report.skipped == {
        "2-1": NO_REASON,
        "3-0": "video video_3.mp4 is missing",
        "3-1": NO_REASON,
    }
    assert report.invalid_records == {"questions.json: record 9": "column 'answer' is missing"}
    assert [result.id for result in report.wrong] == ["0-1", "1-1", "2-0"]
    assert [result.id for result in report.unmatched] == ["1-1"]
    assert report.summary().startswith("Colors & shapes: 40.0% (") and report.summary().endswith(
        "on 5 of 9 questions"
    )


def test_a_missing_video_counts_as_neither_correct_nor_wrong() -> None:
    full, part = make_report(respond("ABABABAB")), make_report({"0-0": "A"}, {"0-1": "no video"})
    assert full.score.accuracy == part.score.accuracy == 1.0
    assert (full.score.num_evaluated, part.score.num_evaluated) == (
        8,
        1,
    ) and part.score.num_questions == 9


def test_without_responses_there_is_no_score() -> None:
    report = make_report({})
    assert (
        report.score.accuracy is None and report.score.interval is None and len(report.skipped) == 8
    )
    assert report.summary() == "Colors & shapes: no score on 0 of 9 questions"


def test_groups_count_every_value_of_a_question_in_order() -> None:
    report = make_report(respond("ABAAABAA"))
    assert list(report.groups["length"]) == ["60", "600"]
    assert {
        value: (score.num_correct, score.num_evaluated)
        for value, score in report.groups["length"].items()
    } == {
        "60": (4, 4),
        "600": (2, 4),
    }
    assert {value: score.num_evaluated for value, score in report.groups["ability"].items()} == {
        "seeing": 8,
        "counting": 4,
    }
    assert report.group_means == {"length": 0.75, "ability": (6 / 8 + 2 / 4) / 2}
    assert make_report({"0-0": "A"}).group_means == {}, "no mean where a group was not evaluated"


def test_questions_for_a_judge_are_in_no_score() -> None:
    questions = make_question_set(num_judged=2)
    report = build_report(
        questions, {**respond("ABABABAB"), "story-0": "Once upon a time"}, {}, PROTOCOL
    )
    assert [result.id for result in report.needs_judge] == ["story-0"] and report.needs_judge[
        0
    ].response == "Once upon a time"
    assert (report.score.num_questions, report.score.num_evaluated, report.score.accuracy) == (
        9,
        8,
        1.0,
    )
    assert report.skipped == {"story-1": NO_REASON} and report.wrong == []


def test_write_and_read_report_round_trip(tmp_path: Path) -> None:
    report = make_report({"0-0": "A", "0-1": "\ud83c schief \u4e2d", "1-0": ""}, {"1-1": "damaged"})
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_the_digest_depends_on_the_prompts() -> None:
    questions = make_question_set()
    subtitled = replace(
        questions, items=tuple(replace(item, prompt="Subtitles: ...") for item in questions.items)
    )
    first, second = (build_report(shown, {}, {}, {}).prompts for shown in (questions, subtitled))
    assert (
        first["digest"] != second["digest"]
        and second["first prompt"] == "Subtitles: ..."
        and first["rules"] == ["choice"]
    )


@pytest.mark.parametrize(
    "answers, skipped, message",
    [
        (
            {"9-9": "A"},
            {},
            "There is a response for '9-9', which is not a question of Colors & shapes",
        ),
        ({}, {"9-9": "gone"}, "There is a reason to skip for '9-9'"),
        ({"0-0": "A"}, {"0-0": "gone"}, "Question '0-0' has both a response and a reason"),
    ],
)
def test_unknown_and_ambiguous_ids_are_refused(
    answers: dict[str, str], skipped: dict[str, str], message: str
) -> None:
    with pytest.raises(ReportError, match=message):
        make_report(answers, skipped)


def test_a_protocol_that_json_cannot_represent_is_refused() -> None:
    with pytest.raises(
        ReportError, match="The protocol of Colors & shapes must consist of numbers, texts"
    ):
        build_report(make_question_set(), {}, {}, {"run": Path("runs/tiny")})


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "is not a report of an evaluation"),
        ("{}", "is not a report of an evaluation"),
        ('{"format": 2}', "has report format 2; this version of lit_hour reads format 3"),
        ('{"format": 3}', "is not a report of an evaluation"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused(
    content: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ReportError, match=rf"report\.json.*{message}"):
        read_report(file)


def test_a_report_with_changed_fields_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_report(make_report(respond("ABABABAB")), file)
    for change in (
        {"stranger": 1},
        {"results": [{"id": "0-0"}]},
        {"score": {"interval": None}},
        {"groups": 3},
    ):
        changed = tmp_path / "changed.json"
        changed.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        with pytest.raises(ReportError, match="is not a report of an evaluation"):
            read_report(changed)


def test_videos_of_the_training_data_are_scored_apart() -> None:
    questions = make_question_set()
    seen = {"0-0", "0-1"}
    report = build_report(mark_seen(questions, seen), respond("AABABABA"), {}, PROTOCOL)
    groups = report.groups["video in the training data"]
    assert {value: score.accuracy for value, score in groups.items()} == {"yes": 0.5, "no": 0.0}
    assert report.num_seen == 2 and mark_seen(questions, set()) is questions
    assert "2 of these questions are about videos that the run was trained on" in render_report(
        report
    )
    assert "2 questions about videos that the run was trained on" in summarize(report, Path("out"))
    assert "trained on" not in render_report(make_report(respond("ABABABAB")))


def test_training_data_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    reasons = {"data.sources.web": "its index has no digests"}
    report = build_report(make_question_set(), {}, {}, {}, not_compared=reasons)
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json").not_compared == reasons
    assert "training data: data.sources.web: its index has no digests." in render_report(report)


def test_the_title_has_the_benchmark_the_run_and_the_checkpoint() -> None:
    protocol = {"checkpoint": {"path": "runs/small/checkpoints/best.ckpt", "SHA-256": "ab"}}
    report = build_report(make_question_set(), respond("ABABABAB"), {}, protocol)
    title = "Colors & shapes, run small, checkpoint best"
    assert report.full_title == title and report.summary().startswith(f"{title}: 100.0% (")
    assert "<title>Colors &amp; shapes, run small, checkpoint best</title>" in render_report(report)
