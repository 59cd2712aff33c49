"""The judge grades what no rule can score; its answers are journaled and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_hour.config.load import load_config
from lit_hour.errors import ConfigError, TeacherError
from lit_hour.evaluation.item import Item
from lit_hour.evaluation.judge import PROMPTS, Judge, parse_judgment
from lit_hour.evaluation.load_benchmark import load_benchmark
from tests.evaluation import question_files
from tests.evaluation.conftest import WriteFiles
from tests.videomarathon.chat_server import ChatServer

SUB_SCENE = Item(
    "8/1", ("a.mp4",), "What happens?", "What happens?", {}, "He runs.", "needs_judge", {}, "here",
    judge_prompt="sub_scene", scoring_points=("He runs", "It {response} rains"),
)  # fmt: skip
SUMMARY = replace(SUB_SCENE, id="9/1", judge_prompt="summary", scoring_points=())
CAPTION = replace(
    SUB_SCENE, id="captioning/1", judge_prompt="caption", answer="B. running",
    scoring_points=("A. {'action': 'walking'}", "B. {'action': 'running'}"),
)  # fmt: skip
ITEMS = (SUB_SCENE, SUMMARY, CAPTION)
RESPONSES = {item.id: f"A man runs ({item.judge_prompt})." for item in ITEMS}


def make_judge(*overrides: str, url: str = "http://127.0.0.1:1/v1") -> Judge:
    settings = [f"evaluation.judge={url}", "evaluation.judge_model=grader", *overrides]
    return Judge(load_config([], [*settings, "videomarathon.client.backoff_seconds=0.01"]))


def grade(body: dict[str, Any]) -> str:
    """Answer as a judge would, by the system message."""
    system = body["messages"][0]["content"]
    if "score_accuracy" in system:
        return 'Key points ...\n{"score_accuracy": 3.5, "score_relevance": 5}'
    if "score_completeness" in system:
        return "Fine. {'score_completeness': 2, 'score_reliability': 4, 'total_score': 6}"
    return "The caption says so.\nAnswer: B"


def server(answer: Callable[[dict[str, Any]], str] = grade, **options: Any) -> ChatServer:
    return ChatServer(lambda body: answer(body), **options)


def test_grades_are_read_and_requested_once(tmp_path: Path) -> None:
    journal = tmp_path / "judge.jsonl"
    with server() as chat:
        judgments = make_judge(url=chat.url).judge(ITEMS, RESPONSES, journal)
        bodies = [json.loads(answered.body) for answered in chat.answered]
        assert make_judge(url=chat.url).judge(ITEMS, RESPONSES, journal) == judgments
        assert chat.num_requests == 3
        other = make_judge("evaluation.judge_model=other", url=chat.url)
        other.judge(ITEMS, RESPONSES, journal)
        assert chat.num_requests == 6, "another judge has answers of its own"
    assert judgments["8/1"].scores == {"accuracy": 3.5, "relevance": 5.0, "total": 8.5}
    assert judgments["9/1"].scores == {"completeness": 2.0, "reliability": 4.0, "total": 6.0}
    assert judgments["captioning/1"].correct is True and judgments["8/1"].correct is None
    assert {body["model"] for body in bodies} == {"grader"}
    sent = {body["messages"][1]["content"] for body in bodies}
    points = "Key points: He runs; It {response} rains\n"  # not filled a second time
    assert any(points in text and "A man runs (sub_scene)." in text for text in sent)


def test_an_answer_without_grades_is_requested_again_and_then_left_out(tmp_path: Path) -> None:
    def hesitate(body: dict[str, Any]) -> str:
        return grade(body) if body["seed"] else "I cannot say."

    with server(hesitate) as chat:
        judge = make_judge(url=chat.url)
        assert judge.judge(ITEMS, RESPONSES, tmp_path / "one.jsonl").keys() == RESPONSES.keys()
        assert chat.num_requests == 6
    with server(lambda body: "score_accuracy: 7, score_relevance: 3") as chat:
        judge = make_judge(url=chat.url)
        assert judge.judge(ITEMS, RESPONSES, tmp_path / "two.jsonl") == {}
        assert chat.num_requests == 9


def test_without_a_server_the_answers_so_far_stay(tmp_path: Path) -> None:
    def break_down(number: int) -> str | None:
        return "500" if number > 1 else None

    with server(fault=break_down) as chat:
        judge = make_judge(
            "videomarathon.client.max_retries=1",
            "videomarathon.client.max_concurrent_requests=1",
            url=chat.url,
        )
        with pytest.raises(TeacherError, match="run the same command again"):
            judge.judge(ITEMS, RESPONSES, tmp_path / "judge.jsonl")
    assert len((tmp_path / "judge.jsonl").read_text().splitlines()) == 1
    with server() as chat:
        make_judge(url=chat.url).judge(ITEMS, RESPONSES, tmp_path / "judge.jsonl")
        assert chat.num_requests == 2


def test_verdicts_on_captions() -> None:
    for text, correct in {
        "Answer: B": True,
        "Answer: A": False,
        "**Answer: none**": False,
        "Answer: A or B": None,
        "": None,
    }.items():
        judgment = parse_judgment(CAPTION, text)
        assert (judgment.correct if judgment else None) == correct, text


def test_wrong_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"sub_scene": {"system": "x"}}'):
        (tmp_path / "prompts.json").write_text(content)
        with pytest.raises(ConfigError, match=r"evaluation\.judge_prompts: .*prompts\.json"):
            make_judge(f"evaluation.judge_prompts={tmp_path}/prompts.json")
    with pytest.raises(ConfigError, match="is not a URL"):
        make_judge(url="localhost:8000")
    with pytest.raises(ConfigError, match="judge_model is empty"):
        make_judge("evaluation.judge_model=")


def test_own_prompts_are_named_in_the_description(tmp_path: Path) -> None:
    prompts = json.loads(PROMPTS.read_text())
    prompts["caption"]["user"] = "{response}"
    (tmp_path / "mine.json").write_text(json.dumps(prompts))
    own, other = make_judge(), make_judge(f"evaluation.judge_prompts={tmp_path}/mine.json")
    assert own.description["model"] == "grader" and "not comparable" in own.description["prompts"]
    assert other.description["prompts"] == f"{tmp_path}/mine.json"
    assert own.description["prompts SHA-256"] != other.description["prompts SHA-256"]


def test_generation_tasks_of_mlvu_and_tempcompass_have_prompts(write_files: WriteFiles) -> None:
    folder = write_files("mlvu")[0].parent
    scene = {"video": "s.mp4", "duration": 9.0, "question": "Describe it.", "answer": "He runs."}
    records = [
        {**scene, "question_type": "subPlot", "scoring_points": ["He", "runs"]},
        {**scene, "question_type": "summary"},
    ]
    (file,) = question_files.write_all({"8.json": records}, folder)
    first, second = load_benchmark("mlvu", [file], 0).items
    assert (first.judge_prompt, first.scoring_points) == ("sub_scene", ("He", "runs"))
    assert (second.judge_prompt, second.scoring_points) == ("summary", ())
    text = (
        "Pick one.\nInformation A: {'x': 'walks'}\nInformation B: {'x': 'runs'}\nGenerated Caption:"
    )
    content = {"1": {"action": [{"question": text, "answer": "B. runs"}]}}
    (file,) = question_files.write_all({"captioning.json": content}, folder)
    (caption,) = load_benchmark("tempcompass", [file], 0).items
    assert caption.scoring_points == ("A. {'x': 'walks'}", "B. {'x': 'runs'}")
    assert caption.judge_prompt == "caption" and caption.answer == "B. runs"
