"""Captions, events and chapters of annotated videos as training material."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_hour.config.videomarathon import DescriptionConfig
from lit_hour.data.questions.file import read_questions
from lit_hour.text.chapters import MAX_CHAPTERS, parse_lines
from lit_hour.videomarathon.annotate import annotate
from tests.videomarathon.factories import CONFIG, NOWHERE, FinishedRun, SyntheticVideos

ALL = DescriptionConfig(captions=True, events=True, chapters=True)


def write_again(
    videos: SyntheticVideos, finished_run: FinishedRun, out: Path, config: DescriptionConfig
) -> list[dict[str, Any]]:
    """Write the files of a finished annotation with other settings; no server answers."""
    shutil.copytree(finished_run.out, out)
    totals = annotate(
        videos.folder, out, [NOWHERE], "teacher", replace(CONFIG, descriptions=config)
    )
    before = json.loads((finished_run.out / "questions.json").read_text())
    records = json.loads((out / "questions.json").read_text())
    added = [record for record in records if record not in before]
    assert [record for record in records if record in before] == before
    assert totals.num_descriptions == len(added)
    return added


def test_nothing_changes_while_they_are_off(
    videos: SyntheticVideos, finished_run: FinishedRun, tmp_path: Path
) -> None:
    assert write_again(videos, finished_run, tmp_path / "out", DescriptionConfig()) == []
    for name in ("questions.json", "dropped.jsonl", "totals.json"):
        expected = (finished_run.out / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == expected
    assert "num_descriptions" not in (tmp_path / "out/totals.json").read_text()


@pytest.mark.parametrize(
    ("name", "num_records"), (("captions", 2), ("events", 2), ("chapters", 2)), ids=str
)
def test_each_setting_adds_its_records(
    videos: SyntheticVideos,
    finished_run: FinishedRun,
    tmp_path: Path,
    name: str,
    num_records: int,
) -> None:
    config = DescriptionConfig(**{name: True})
    added = write_again(videos, finished_run, tmp_path / "out", config)
    assert len(added) == 2 * num_records  # two videos of two clips


def test_records_say_what_the_annotation_says(
    videos: SyntheticVideos, finished_run: FinishedRun, tmp_path: Path
) -> None:
    added = write_again(videos, finished_run, tmp_path / "out", ALL)
    annotation = json.loads((tmp_path / "out/videos/garden.mp4/annotation.json").read_text())
    records = {record["id"].removeprefix("garden.mp4/"): record for record in added}
    caption = records["caption/1"]
    assert caption["question"] == "Describe what happens between 01:00 and 02:00."
    assert caption["answer"] == annotation["captions"][1]["overall"]
    assert caption["evidence"] == [[60.0, 120.0]]
    listed = [
        event
        for number, start in enumerate((0.0, 60.0))
        for event in parse_lines(records[f"events/{number}"]["answer"], start, start + 60, 120.0)
    ]
    assert len(listed) == len(annotation["events"]) > 3
    for event, true in zip(listed, annotation["events"], strict=True):
        assert event.text == true["text"]
        assert abs(event.start_seconds - true["start_seconds"]) < 1
        assert abs(event.end_seconds - true["end_seconds"]) <= 1
    chapters = parse_lines(records["chapters"]["answer"], 0, 120, 120)
    assert 1 <= len(chapters) <= MAX_CHAPTERS and chapters[-1].end_seconds == 120
    assert records["summary"]["answer"] == annotation["summary"]


def test_pack_reads_the_records(
    videos: SyntheticVideos, finished_run: FinishedRun, tmp_path: Path
) -> None:
    added = write_again(videos, finished_run, tmp_path / "out", ALL)
    subjects = list(read_questions(tmp_path / "out/questions.json"))
    ids = {question.id for subject in subjects for question in subject.questions}
    assert {record["id"] for record in added} <= ids and len(subjects) == 2
