import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import av
import pytest

from lit_hour.config.schema import WorldConfig
from lit_hour.errors import WorldError
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.world.make import make_world, write_stories
from lit_hour.world.narrate import narrate

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = WorldConfig(
    num_videos=3, num_validation_videos=2, num_hour_videos=0, duration_seconds=30.0, size_pixels=32, frames_per_second=5
)


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "world"
    make_world(replace(SETTINGS, folder=str(folder)), num_workers=2)
    return folder


@pytest.fixture
def settings(finished_folder: Path, tmp_path: Path) -> WorldConfig:
    """A world of its own for a test to change."""
    shutil.copytree(finished_folder, tmp_path / "world")
    return replace(SETTINGS, folder=str(tmp_path / "world"))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file by name: when it was changed, and what is in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def seconds_in(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)) / SETTINGS.frames_per_second


def test_a_world_has_its_videos_and_questions(settings: WorldConfig):
    world = make_world(settings)
    for split, videos, questions, num_videos in (
        ("train", world.train_videos, world.train_questions, 3),
        ("validation", world.validation_videos, world.validation_questions, 2),
    ):
        names = [f"world_{index:05d}.mp4" for index in range(num_videos)]
        assert sorted(path.name for path in videos.iterdir()) == names
        stories = write_stories(settings, split)
        assert [seconds_in(videos / name) for name in names] == [story.duration_seconds for story in stories]
        records = json.loads(questions.read_text(encoding="utf-8"))
        assert len({record["id"] for record in records}) == len(records)
        expected = [question for story, name in zip(stories, names, strict=True) for question in narrate(story, name[:-4])]
        for record, question in zip(records, expected, strict=True):
            assert record["video"] == question.id.split("/")[0] + ".mp4"
            assert (record["question"], record["answer"]) == (question.question, question.answer)
            assert record["task"] in TASK_OF_KEY
            assert tuple(record.get("options", ())) == question.options
            assert ("options" in record) == (record["format"] == "multiple_choice")
            assert [tuple(interval) for interval in record["evidence"]] == list(question.evidence)


def test_splits_and_seeds_never_share_a_story():
    worlds = [replace(SETTINGS, num_videos=40, num_validation_videos=40, seed=seed) for seed in (0, 1, 2)]
    stories = [story for world in worlds for split in ("train", "validation") for story in write_stories(world, split)]
    assert len({story.seed for story in stories}) == len({story.scenes for story in stories}) == 240


def test_durations_are_the_set_one_give_or_take_a_third_and_hours_come_first():
    durations = [
        story.duration_seconds for story in write_stories(replace(SETTINGS, num_videos=60, num_hour_videos=2), "train")
    ]
    assert durations[:2] == [3600.0, 3600.0]
    assert all(20 <= duration <= 40 for duration in durations[2:])
    assert min(durations[2:]) < 24 and max(durations[2:]) > 36


def test_a_restart_keeps_what_is_finished_and_makes_what_is_missing(settings: WorldConfig):
    folder = Path(settings.folder)
    before = contents(folder)
    (folder / "train/videos/world_00001.mp4").unlink()
    (folder / "validation/videos/world_00000.mp4").unlink()
    (folder / "train/questions.json").unlink()
    make_world(settings)
    after = contents(folder)
    assert {name: content for name, (_, content) in after.items()} == {name: content for name, (_, content) in before.items()}
    remade = {name for name in after if name.endswith(".mp4") and after[name][0] != before[name][0]}
    assert remade == {"train/videos/world_00001.mp4", "validation/videos/world_00000.mp4"}


def test_more_videos_leave_the_others_as_they_are(settings: WorldConfig):
    before = contents(Path(settings.folder))
    world = make_world(replace(settings, num_videos=4))
    after = contents(Path(settings.folder))
    assert all(after[name] == before[name] for name in before if name.endswith(".mp4"))
    assert (world.train_videos / "world_00003.mp4").is_file()
    videos = {record["video"] for record in json.loads(world.train_questions.read_text(encoding="utf-8"))}
    assert len(videos) == 4


def test_two_runs_at_once_make_one_world(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path))
    others = [threading.Thread(target=make_world, args=(settings, 1)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert len(list(tmp_path.glob("*/videos/*.mp4"))) == 5
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1), ("duration_seconds", 60.0), ("size_pixels", 64), ("frames_per_second", 2), ("num_hour_videos", 1)],
)
def test_a_folder_of_another_world_is_refused_and_kept(settings: WorldConfig, name: str, value: int):
    before = contents(Path(settings.folder))
    with pytest.raises(WorldError, match=rf"world\.json says.*'{name}'.*choose another world\.folder.*delete that folder"):
        make_world(replace(settings, **{name: value}))
    assert contents(Path(settings.folder)) == before


def test_videos_that_nobody_described_are_refused(settings: WorldConfig):
    (Path(settings.folder) / "world.json").unlink()
    with pytest.raises(WorldError, match=r"holds videos but no world\.json"):
        make_world(settings)


def test_a_damaged_description_is_refused(settings: WorldConfig):
    (Path(settings.folder) / "world.json").write_text("{", encoding="utf-8")
    with pytest.raises(WorldError, match=r"world\.json is damaged"):
        make_world(settings)


def test_settings_that_make_no_world_are_refused(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path / "world"))
    with pytest.raises(WorldError, match=r"world\.num_videos is 0"):
        make_world(replace(settings, num_videos=0))
    with pytest.raises(WorldError, match=r"world\.num_hour_videos is 3, but world\.num_validation_videos is 2"):
        make_world(replace(settings, num_hour_videos=3))
    assert not (tmp_path / "world").exists()


def test_settings_that_failed_before_the_first_video_can_be_mended(tmp_path: Path):
    settings = replace(SETTINGS, folder=str(tmp_path), num_videos=1, num_validation_videos=1)
    with pytest.raises(WorldError, match=r"world\.size_pixels is 33"):
        make_world(replace(settings, size_pixels=33))
    make_world(settings)
    assert len(list(tmp_path.glob("*/videos/*.mp4"))) == 2


def test_a_folder_that_cannot_be_is_refused_by_name(tmp_path: Path):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(WorldError, match=r"world\.folder .*file/world cannot be filled"):
        make_world(replace(SETTINGS, folder=str(tmp_path / "file" / "world")))
