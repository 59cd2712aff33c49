import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.io.file_lock import dir_lock, is_locked
from lit_hour.synthetic.dataset import build_dataset, start_build
from lit_hour.synthetic.video_plan import plan_split

SETTINGS = SyntheticConfig(
    num_videos=3,
    num_val_videos=2,
    num_hour_videos=0,
    duration_seconds=30.0,
    image_size=32,
    fps=2,
)
OTHER_VALUES = {
    "seed": 1,
    "duration_seconds": 60.0,
    "image_size": 64,
    "fps": 5,
    "num_hour_videos": 1,
    "num_actors": 9,
    "actions_per_minute": 9.0,
    "questions_per_task": 3,
    "tasks": "scene_recognition",
    "difficulty": "easy",
}


@pytest.fixture(scope="module")
def built_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built data set that tests must not change."""
    folder = tmp_path_factory.mktemp("built") / "data"
    build_dataset(replace(SETTINGS, folder=str(folder)), num_workers=2)
    return folder


@pytest.fixture
def settings(built_folder: Path, tmp_path: Path) -> SyntheticConfig:
    """Settings of a copy of the built data set."""
    shutil.copytree(built_folder, tmp_path / "data")
    return replace(SETTINGS, folder=str(tmp_path / "data"))


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_dataset_has_the_planned_videos_and_questions_about_each(settings: SyntheticConfig):
    dataset = build_dataset(settings)
    for split, (videos, questions) in zip(("train", "validation"), dataset.splits, strict=True):
        names = {f"{plan.name}.mp4" for plan in plan_split(settings, split)}
        assert {path.name for path in videos.iterdir()} == names
        assert {record["video"] for record in json.loads(questions.read_text())} == names
    video, question, answer = dataset.example()
    assert Path(video).is_file() and question and answer


def test_two_runs_at_once_build_one_dataset(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path))
    threads = [threading.Thread(target=build_dataset, args=(settings, 1)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.glob("*/videos/*.mp4"))) == 5
    assert not list(tmp_path.rglob("*.unfinished"))


def test_folders_are_locked_only_while_videos_are_missing(settings: SyntheticConfig):
    lock = dir_lock(Path(settings.folder) / "train")
    with start_build(settings) as build:
        assert not build.missing and not is_locked(lock)
    (Path(settings.folder) / "train/videos/synthetic_00001.mp4").unlink()
    with start_build(settings) as build:
        assert len(build.missing) == 1 and is_locked(lock)
        assert [video.path.name for video in build.rendered()] == ["synthetic_00001.mp4"]
        assert not (Path(settings.folder) / "train/totals.json").exists()
        build.finish()
    assert (Path(settings.folder) / "train/totals.json").exists() and not is_locked(lock)


def test_folder_built_with_another_setting_is_refused_and_kept(settings: SyntheticConfig):
    before = read_files(Path(settings.folder))
    for name, value in OTHER_VALUES.items():
        with pytest.raises(
            SyntheticDataError,
            match=rf"generator\.json says.*'{name}'.*Choose another folder.*delete it",
        ):
            build_dataset(replace(settings, **{name: value}))
        assert read_files(Path(settings.folder)) == before, name


def test_invalid_settings_are_refused_before_anything_is_written(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path / "data"))
    for name, value, message in (
        ("num_videos", 0, r"synthetic\.num_videos is 0"),
        (
            "num_hour_videos",
            3,
            r"synthetic\.num_hour_videos is 3, but synthetic\.num_val_videos is 2",
        ),
        ("num_actors", 40, r"synthetic\.num_actors must be 1 to 36"),
        (
            "tasks",
            "object_existense",
            r"Unknown task 'object_existense'\. Did you mean 'object_existence'\?",
        ),
    ):
        with pytest.raises(SyntheticDataError, match=message):
            build_dataset(replace(settings, **{name: value}))
    assert not (tmp_path / "data").exists()


def test_settings_can_be_corrected_if_no_video_was_made(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path), num_videos=1, num_val_videos=1)
    with pytest.raises(SyntheticDataError, match=r"synthetic\.image_size is 33"):
        build_dataset(replace(settings, image_size=33))
    build_dataset(settings)
    assert len(list(tmp_path.glob("*/videos/*.mp4"))) == 2


def test_folder_that_cannot_be_created_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SyntheticDataError, match=r"Cannot write to .*file/data/train"):
        build_dataset(replace(SETTINGS, folder=str(tmp_path / "file" / "data")))
