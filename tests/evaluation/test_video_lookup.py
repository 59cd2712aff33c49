"""Videos are found in any of the folders; missing ones are listed with where they were searched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.evaluation.load_benchmark import find_videos
from lit_hour.evaluation.report.report import build_report
from tests.evaluation.factories import make_question_set


def test_the_first_folder_with_a_video_wins(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for file in (one / "video_0.mp4", two / "video_0.mp4", two / "video_1.mp4"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (one / "video_2.mp4").mkdir()  # a folder is not a video
    items = make_question_set(num_videos=3).items
    found = find_videos(items, [one, two])
    assert found.files == {
        **dict.fromkeys(("0-0", "0-1"), one / "video_0.mp4"),
        **dict.fromkeys(("1-0", "1-1"), two / "video_1.mp4"),
    }
    assert set(found.missing) == {"2-0", "2-1"}
    assert found.missing["2-0"] == f"video video_2.mp4 is in none of {one}, {two}"


def test_the_most_likely_path_comes_first(tmp_path: Path) -> None:
    (tmp_path / "3_ego").mkdir()
    for file in (tmp_path / "ego_1.mp4", tmp_path / "3_ego" / "ego_1.mp4"):
        file.touch()
        item = replace(make_question_set().items[0], videos=("3_ego/ego_1.mp4", "ego_1.mp4"))
        assert find_videos([item], [tmp_path]).files == {item.id: file}


@pytest.mark.parametrize("folders", [[], ["nowhere"]])
def test_a_missing_video_is_the_reason_in_the_report(folders: list[str], tmp_path: Path) -> None:
    questions = make_question_set()
    found = find_videos(questions.items, [tmp_path / folder for folder in folders])
    report = build_report(questions, {}, found.missing, {})
    assert len(report.skipped) == 8
    assert report.skipped["0-0"].startswith("video video_0.mp4 is in none of ")
