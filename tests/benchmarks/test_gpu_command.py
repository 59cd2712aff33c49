"""`python -m tests.benchmarks.gpu`: time limits, results on disk, interruptions, repetitions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks.gpu import command
from tests.benchmarks.gpu.command import Result, main, run_topic
from tests.benchmarks.gpu.topics import TOPICS, Topic
from tests.benchmarks.speed.harness.outcome import Outcome
from tests.benchmarks.speed.harness.report import outcome_record

ROW = outcome_record(Outcome(6, "a question", "s", ours=1.0))


class Runs:
    """Takes the place of `run_topic`; counts the topics that run."""

    def __init__(self, failing: str = "", interrupted: str = "") -> None:
        self.failing, self.interrupted = failing, interrupted
        self.names: list[str] = []

    def __call__(self, name: str, topic: Topic, device: str, device_name: str) -> Result:
        self.names.append(name)
        if name == self.interrupted:
            raise KeyboardInterrupt
        failure = "it broke" if name == self.failing else ""
        return Result(name, device_name, "commit", "date", 1.0, failure, [ROW])


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which a rehearsal sets
    return tmp_path / "results/cpu.jsonl"


def start(monkeypatch: pytest.MonkeyPatch, results: Path, runs: Runs, *more: str) -> int:
    monkeypatch.setattr(command, "run_topic", runs)
    return main(["--device", "cpu", "--results", str(results), *more])


def test_finished_topics_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Runs(failing="step")
    assert start(monkeypatch, results, first) == 1
    assert first.names == list(TOPICS)
    assert "| a question | 1.00 s |" in capsys.readouterr().out
    second = Runs()
    assert start(monkeypatch, results, second) == 0
    assert second.names == ["step"]
    third = Runs()
    assert start(monkeypatch, results, third, "memaug", "--again") == 0
    assert third.names == ["memaug"]
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert {line["topic"] for line in lines} == set(TOPICS)
    assert not any(line["failure"] for line in lines)


def test_interruption_keeps_the_topics_before(
    monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(monkeypatch, results, Runs(interrupted="answering"))
    done = [json.loads(line)["topic"] for line in results.read_text().splitlines()]
    assert done == list(TOPICS)[: len(done)] and len(done) == list(TOPICS).index("answering")
    rest = Runs()
    assert start(monkeypatch, results, rest) == 0
    assert rest.names == list(TOPICS)[len(done) :]


def test_results_of_another_device_do_not_count(
    monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    start(monkeypatch, results, Runs())
    results.write_text(results.read_text().replace('"device": "cpu"', '"device": "another"'))
    again = Runs()
    start(monkeypatch, results, again)
    assert again.names == list(TOPICS)


@pytest.mark.parametrize("content", ['{"topic": "tests"}\n', "not JSON\n", '{"topic": "te'])
def test_damaged_results_are_measured_again(
    monkeypatch: pytest.MonkeyPatch, results: Path, content: str
) -> None:
    results.parent.mkdir()
    results.write_text(content)
    runs = Runs()
    assert start(monkeypatch, results, runs) == 0
    assert (
        runs.names
        == list(TOPICS)
        == [json.loads(line)["topic"] for line in results.read_text().splitlines()]
    )


def test_topic_is_stopped_at_its_limit() -> None:
    result = run_topic("memaug", Topic("too slow", 0.2, TOPICS["memaug"].measure), "cpu", "cpu")
    assert result.failure == "stopped after 0 s" and not result.outcomes
    assert result.seconds < 20


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [["memory", "--device", "cpu"], ["--device", "tpu"]]
    wrong += [] if torch.cuda.is_available() else [[]]
    for argv in wrong:
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "unknown topic memory" in printed and "invalid choice: 'tpu'" in printed


def test_limits_of_all_topics_are_seven_minutes_at_most() -> None:
    assert sum(topic.limit_seconds for topic in TOPICS.values()) <= 7 * 60 + 10
