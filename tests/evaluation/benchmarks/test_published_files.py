"""The real question files load, and a published model's responses get the official verdicts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_hour.errors import QuestionError
from lit_hour.evaluation.item import QuestionSet
from lit_hour.evaluation.load_benchmark import load_benchmark
from lit_hour.evaluation.report.report import build_report
from lit_hour.evaluation.scoring import score_response

NUM_OF_MLVU_FILE = {
    "1_plotQA": 539,
    "2_needle": 355,
    "3_ego": 352,
    "4_count": 206,
    "5_order": 259,
    "6_anomaly_reco": 200,
    "7_topic_reasoning": 264,
    "8_sub_scene": 201,
    "9_summary": 217,
}
INVALID_OF_MLVU = {  # as published: answer outside the options, empty answer, empty question
    "2_needle.json: record 35": "is none of the options",
    "2_needle.json: record 339": "is none of the options",
    "3_ego.json: record 120": "key 'answer' must be a nonempty text",
    "3_ego.json: record 314": "key 'answer' must be a nonempty text",
    "7_topic_reasoning.json: record 27": "key 'question' must be a nonempty text",
}
NUM_OF_TEMPCOMPASS_TASK = {"multi-choice": 1580, "yes_no": 2453, "caption_matching": 1503}
JUDGED = {  # the responses that the published code has a language model judge, and its verdict
    "caption_matching/1064645467/speed/3": 0,
    "caption_matching/1098785169/direction/3": 0,
    "caption_matching/1097341567/order/2": 0,
    "caption_matching/1098785169_reverse/direction/3": 0,
    "caption_matching/1060403198_1049965795_0/order/1": 1,
    "caption_matching/1091143117_1094219575_2/order/2": 0,
    "caption_matching/1034736653_1043054206_1/order/1": 0,
}


@pytest.fixture(scope="module")
def tempcompass(published: Path) -> QuestionSet:
    files = [
        published / "tempcompass" / "questions" / f"{task}.json" for task in NUM_OF_TEMPCOMPASS_TASK
    ]
    return load_benchmark("tempcompass", files, max_invalid=0)


def by_id(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of predictions or scores under the ids of the questions."""
    return {
        f"{task}/{video}/{aspect}/{number}": record
        for task in NUM_OF_TEMPCOMPASS_TASK
        for video, aspects in json.loads(
            (folder / f"{task}.json").read_text(encoding="utf-8")
        ).items()
        for aspect, records in aspects.items()
        for number, record in enumerate(records, start=1)
    }


def test_all_nine_files_of_mlvu_load(published: Path) -> None:
    files = sorted((published / "mlvu_dev").glob("*.json"))
    assert [file.stem for file in files] == list(NUM_OF_MLVU_FILE)
    questions = load_benchmark("mlvu", files, max_invalid=len(INVALID_OF_MLVU))
    invalid = {
        record.location.removeprefix(f"{published / 'mlvu_dev'}/"): record.reason
        for record in questions.invalid_records
    }
    assert invalid.keys() == INVALID_OF_MLVU.keys()
    assert all(reason in invalid[location] for location, reason in INVALID_OF_MLVU.items())
    counts = Counter(item.id.split("/")[0] for item in questions.items) + Counter(
        location.split(".")[0] for location in invalid
    )
    assert counts == NUM_OF_MLVU_FILE and sum(counts.values()) == questions.num_published


def test_invalid_records_of_mlvu_exceed_a_smaller_budget(published: Path) -> None:
    with pytest.raises(
        QuestionError,
        match=r"2 records of MLVU dev cannot be used; evaluation\.\w+=1 are allowed"
        r"(.|\n)*2_needle\.json: record 35",
    ):
        load_benchmark("mlvu", [published / "mlvu_dev" / "2_needle.json"], max_invalid=1)


@pytest.mark.parametrize("task", NUM_OF_MLVU_FILE)
def test_each_file_of_mlvu_loads_alone(task: str, published: Path) -> None:
    questions = load_benchmark("mlvu", [published / "mlvu_dev" / f"{task}.json"], max_invalid=2)
    assert len(questions.items) + len(questions.invalid_records) == NUM_OF_MLVU_FILE[task]
    assert {item.rule for item in questions.items} == {
        "needs_judge" if task in ("8_sub_scene", "9_summary") else "mlvu"
    }


def test_the_true_answers_of_mlvu_are_correct(published: Path) -> None:
    questions = load_benchmark(
        "mlvu", sorted((published / "mlvu_dev").glob("*.json")), max_invalid=5
    )
    for item in (item for item in questions.items if item.options):
        assert all(
            score_response(item, response.format(item.answer)).correct
            for response in ("{}", "({}) ...", "{}) ...", " Best option:({})")
        )


def test_tempcompass_loads_with_the_published_numbers(tempcompass: QuestionSet) -> None:
    assert Counter(item.groups["task"][0] for item in tempcompass.items) == NUM_OF_TEMPCOMPASS_TASK
    assert len({item.videos for item in tempcompass.items}) == 410
    assert {len(item.options) for item in tempcompass.items} == {2, 3, 4}


def test_the_prediction_files_have_the_same_questions(
    tempcompass: QuestionSet, published: Path
) -> None:
    predictions = by_id(published / "tempcompass" / "predictions_video-llava")
    assert predictions.keys() == {item.id for item in tempcompass.items}
    assert all(
        item.prompt.startswith(predictions[item.id]["question"]) for item in tempcompass.items
    )


def test_tempcompass_verdicts_are_the_official_ones(
    tempcompass: QuestionSet, published: Path
) -> None:
    predictions = by_id(published / "tempcompass" / "predictions_video-llava")
    official = by_id(published / "tempcompass" / "official_scores_video-llava")
    responses = {key: record["prediction"] for key, record in predictions.items()}
    report = build_report(tempcompass, responses, skipped={}, protocol={})
    for result in report.results:
        assert (result.chosen is not None) == official[result.id]["match_success"], result
        if result.id not in JUDGED:
            assert result.correct == bool(official[result.id]["rating"]), result
    assert {result.id: official[result.id]["rating"] for result in report.unmatched} == JUDGED


def test_the_project_rule_agrees_with_the_official_verdicts_on_multiple_choice(
    tempcompass: QuestionSet, published: Path
) -> None:
    predictions = by_id(published / "tempcompass" / "predictions_video-llava")
    official = by_id(published / "tempcompass" / "official_scores_video-llava")
    items = [item for item in tempcompass.items if item.rule == "tempcompass_choice"]
    assert len(items) == NUM_OF_TEMPCOMPASS_TASK["multi-choice"]
    for item in items:
        verdict = score_response(replace(item, rule="choice"), predictions[item.id]["prediction"])
        assert verdict.correct == bool(official[item.id]["rating"]), item.id


@pytest.mark.parametrize("grouping", ["task", "aspect of a task"])
def test_tempcompass_totals_are_the_official_ones(
    grouping: str, tempcompass: QuestionSet, published: Path
) -> None:
    official = by_id(published / "tempcompass" / "official_scores_video-llava")
    responses = {key: record["video-llm-prediction"] for key, record in official.items()}
    report = build_report(tempcompass, responses, skipped={}, protocol={})
    num_correct: Counter[str] = Counter()
    for item in tempcompass.items:
        num_correct[item.groups[grouping][0]] += official[item.id]["rating"] - JUDGED.get(
            item.id, 0
        )
    assert {
        value: score.num_correct for value, score in report.groups[grouping].items()
    } == num_correct
    assert report.score.num_unmatched == len(JUDGED) and report.score.num_evaluated == 5536
