import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.config.synthetic import SyntheticConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.dataset import build_dataset
from lit_hour.synthetic.video_plan import plan_split

SETTINGS = SyntheticConfig(
    num_videos=3,
    num_val_videos=2,
    num_hour_videos=0,
    duration_seconds=30.0,
    image_size=32,
    fps=2,
)


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "world"
    build_dataset(replace(SETTINGS, folder=str(folder)), num_workers=2)
    return folder


@pytest.fixture
def settings(finished_folder: Path, tmp_path: Path) -> SyntheticConfig:
    """A world of its own for a test to change."""
    shutil.copytree(finished_folder, tmp_path / "world")
    return replace(SETTINGS, folder=str(tmp_path / "world"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_world_is_a_set_to_train_on_and_one_to_validate_on(settings: SyntheticConfig):
    world = build_dataset(settings)
    for split, videos, file in (
        ("train", world.train_videos, world.train_questions),
        ("validation", world.validation_videos, world.validation_questions),
    ):
        names = {f"{plan.name}.mp4" for plan in plan_split(settings, split)}
        assert {path.name for path in videos.iterdir()} == names
        assert {record["video"] for record in json.loads(file.read_text())} == names
    video, question, answer = world.example()
    assert Path(video).is_file() and question and answer


def test_two_runs_at_once_make_one_world(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path))
    others = [threading.Thread(target=build_dataset, args=(settings, 1)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert len(list(tmp_path.glob("*/videos/*.mp4"))) == 5
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("seed", 1),
            ("duration_seconds", 60.0),
            ("image_size", 64),
            ("fps", 5),
            ("num_hour_videos", 1),
        ),
        *(
            ("num_actors", 9),
            ("actions_per_minute", 9.0),
            ("questions_per_task", 3),
            ("tasks", "scene_recognition"),
        ),
        ("difficulty", "easy"),
    ],
)
def test_a_folder_of_another_world_is_refused_and_kept(
    settings: SyntheticConfig, name: str, value: object
):
    before = contents(Path(settings.folder))
    with pytest.raises(
        SyntheticDataError,
        match=rf"world\.json says.*'{name}'.*choose another folder.*delete that folder",
    ):
        build_dataset(replace(settings, **{name: value}))
    assert contents(Path(settings.folder)) == before


def test_settings_that_make_no_world_are_refused_before_anything_is_written(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path / "world"))
    for name, value, reason in (
        ("num_videos", 0, r"synthetic\.num_videos is 0"),
        (
            "num_hour_videos",
            3,
            r"synthetic\.num_hour_videos is 3, but synthetic\.num_val_videos is 2",
        ),
        ("num_actors", 40, r"synthetic\.num_actors has to be 1 to 36"),
        (
            "tasks",
            "object_existense",
            r"there is no task 'object_existense'; did you mean 'object_existence'\?",
        ),
    ):
        with pytest.raises(SyntheticDataError, match=reason):
            build_dataset(replace(settings, **{name: value}))
    assert not (tmp_path / "world").exists()


def test_settings_that_failed_before_the_first_video_can_be_mended(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path), num_videos=1, num_val_videos=1)
    with pytest.raises(SyntheticDataError, match=r"synthetic\.image_size is 33"):
        build_dataset(replace(settings, image_size=33))
    build_dataset(settings)
    assert len(list(tmp_path.glob("*/videos/*.mp4"))) == 2


def test_a_folder_that_cannot_be_is_refused_by_name(tmp_path: Path):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(SyntheticDataError, match=r"file/world/train cannot be filled"):
        build_dataset(replace(SETTINGS, folder=str(tmp_path / "file" / "world")))
