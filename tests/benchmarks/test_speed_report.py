"""The harness of `make benchmark`: verdicts, tables, the plot, and topics that fail."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.speed.harness import run as harness
from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.benchmarks.speed.harness.plot import plot_outcomes, times_goal
from tests.benchmarks.speed.harness.report import (
    Failure,
    Report,
    Section,
    format_figure,
    read_sections,
)
from tests.benchmarks.speed.harness.topics import TARGETS, TOPICS

HALF_OF_THE_PEER = Goal("at most", 0.5)
MOST_OF_THE_LIMIT = Goal("at least", 0.8, "limit")
MET = Outcome(
    1, "720p", "s", 20.0, 50.0, "decord", goal=HALF_OF_THE_PEER, curve={10.0: 20.0, 60.0: 120.0}
)
MISSED = Outcome(
    2,
    "JPEGs",
    "MB/s",
    60.0,
    30.0,
    "litdata",
    100.0,
    "decoding",
    MOST_OF_THE_LIMIT,
    why="the queue copies.",
)
SKIPPED = Outcome(
    5, "so400m", "TFLOP/s", goal=Goal("at least", 0.6, "limit"), why="it would need a GPU."
)
COMPARED = Outcome(2, "read only", "MB/s", 60.0, 30.0, "litdata")
MACHINE = {
    "cpu": "abacus",
    "cores": 2,
    "memory_gb": 8.0,
    "gpu": "",
    "python": "3",
    "versions": {},
    "peers": {},
}

TOPIC = """
from tests.benchmarks.speed.harness.outcome import Outcome

def measure():
    yield Outcome(7, "before", "s", 1.0)
    {end}
"""


@pytest.mark.parametrize(
    ("outcome", "verdict", "ratio", "missed_by", "better"),
    [
        (MET, "met", 0.4, 0.0, 1.25),
        (MISSED, "missed", 0.6, 0.25, 0.75),
        (
            Outcome(7, "help", "s", 3.0, goal=Goal("at most", 2.0, "nothing")),
            "missed",
            None,
            0.5,
            2 / 3,
        ),
        (Outcome(7, "help", "s", 2.0, goal=Goal("at most", 2.0, "nothing")), "met", None, 0.0, 1.0),
    ],
)
def test_verdict_ratio_and_distance_from_the_goal(
    outcome: Outcome, verdict: str, ratio: float | None, missed_by: float, better: float
) -> None:
    assert (outcome.verdict, outcome.ratio) == (verdict, ratio)
    assert outcome.missed_by == pytest.approx(missed_by)
    assert times_goal(outcome) == pytest.approx(better)


def test_outcome_without_figure_or_goal_is_skipped_or_for_comparison() -> None:
    without_peer = Outcome(1, "720p", "s", 20.0, goal=HALF_OF_THE_PEER)
    assert [outcome.verdict for outcome in (SKIPPED, COMPARED, without_peer)] == [
        "skipped",
        "for comparison",
        "skipped",
    ]
    assert COMPARED.ratio == 2.0


def test_text_has_a_row_for_each_result_and_the_reasons_below() -> None:
    failure = Failure("ingest", 1, "Traceback\n  somewhere\nValueError: too long")
    sections = [
        Section("ingest", "c1", "2026-11-23T1", [MET, failure]),
        Section("shards", "c2", "2026-11-23T2", [MISSED, COMPARED]),
        Section("encoder", "c1", "2026-11-23T3", [SKIPPED]),
    ]
    text = Report(MACHINE, sections).as_text()
    lines = text.splitlines()
    index = next(number for number, line in enumerate(lines) if "JPEGs" in line)
    assert " ".join(lines[index].split()) == (
        "JPEGs 60.0 MB/s 30.0 MB/s litdata 0.60 100 MB/s decoding at least 0.8 of the limit missed"
    )
    assert lines[index + 1].strip() == "missed by 25%: the queue copies."
    assert any(line.strip() == "skipped: it would need a GPU." for line in lines)
    assert any(
        line.split()[0] == "ingest" and line.split()[-1] == "failed"
        for line in lines
        if line.strip()
    )
    assert (
        "Not run: memaug (target 3), step (target 4), answering (target 6), startup (target 7),"
        " questions (target 8), batching (target 9), decoding (target 10)." in text
    )
    assert "commit c1, 2026-11-23: ingest, encoder; commit c2, 2026-11-23: shards" in text
    assert text.endswith(failure.error)


def test_markdown_has_a_row_for_each_result_and_the_reasons_below() -> None:
    both = [MISSED, replace(MISSED, what="PNGs", ours=50.0)]
    text = Report(
        MACHINE, [Section("shards", "c", "2026-11-23", [MET, *both, SKIPPED])]
    ).as_markdown()
    assert (
        "| 1 | 720p | 20.0 s | 50.0 s decord | 0.40 | – | at most 0.5 of the peer | met |" in text
    )
    assert (
        "- 2, JPEGs, litdata: missed by 25%; 2, PNGs, litdata: missed by 38%. The queue copies."
        in text
    )
    assert text.startswith("# Speed\n")
    assert "\n\nabacus, 2 cores, 8 GB, no GPU; Python 3, \n\n| target |" in text


def test_sections_are_read_back_on_the_same_machine_only(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    sections = [
        Section(
            "ingest",
            "c",
            "today",
            [Failure("ingest", 1, "no room"), MET, MISSED, SKIPPED, COMPARED],
        )
    ]
    assert read_sections(file, MACHINE) == []
    Report(MACHINE, sections).write_json(file)
    assert read_sections(file, MACHINE) == sections
    assert read_sections(file, {**MACHINE, "cpu": "another"}) == []


def test_format_figure() -> None:
    assert [format_figure(value) for value in (1234.5, 12.34, 0.523, 0.01234, None)] == [
        "1,234",
        "12.3",
        "0.52",
        "0.0123",
        "–",
    ]


@pytest.mark.parametrize("outcomes", [[], [SKIPPED], [MET, MISSED, SKIPPED, COMPARED]])
def test_plot_is_written_for_any_outcomes(outcomes: list[Outcome], tmp_path: Path) -> None:
    plot_outcomes(outcomes, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_failing_topics_keep_their_outcomes_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fake_topics").mkdir()
    ends = {"ingest": "raise ValueError('disk full')", "shards": "import os; os._exit(9)"}
    measured = (*ends, "startup")
    for topic in measured:
        module = tmp_path / "fake_topics" / f"{topic}.py"
        module.write_text(TOPIC.format(end=ends.get(topic, "")))
    monkeypatch.setattr(harness, "FOLDER", tmp_path / "out")
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(harness, "TOPICS_PACKAGE", "fake_topics")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert harness.main(list(measured)) == 1
    found = json.loads((tmp_path / "out" / "speed.json").read_text())
    for section in found["topics"]:
        outcomes = [item["what"] for item in section["outcomes"]]
        assert outcomes == ["before"], section["topic"]
    failed = [failure for section in found["topics"] for failure in section["failed"]]
    assert [(item["topic"], item["error"].split()[-2:]) for item in failed] == [
        ("ingest", ["disk", "full"]),
        ("shards", ["status", "9"]),
    ]
    assert "ValueError: disk full" in failed[0]["error"]
    assert found["not_run"] == [topic for topic in TOPICS if topic not in measured]
    assert found["machine"]["cores"] > 0 and "decord" in found["machine"]["peers"]
    assert "failed" in capfd.readouterr().out
    assert "| 7 | before | 1.00 s |" in (tmp_path / "RESULTS.md").read_text()


def test_unknown_topic_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness.main(["ingest", "speling"]) == 2
    expected = f"error: Unknown topic: speling. Topics: {', '.join(TOPICS)}.\n"
    assert capsys.readouterr().err == expected
    assert set(TOPICS.values()) == set(TARGETS)
