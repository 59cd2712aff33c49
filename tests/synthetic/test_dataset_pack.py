import json
from pathlib import Path

import pytest

from lit_hour.config.schema import Config
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError, SyntheticDataError
from lit_hour.synthetic.dataset import build_and_pack
from tests.helpers.toy_run import ToyProject


@pytest.fixture
def config(toy: ToyProject) -> Config:
    return toy.config("none")


def test_each_split_is_packed_beside_its_videos(config: Config) -> None:
    folder = Path(config.synthetic.folder)
    for split, num_videos in (("train", 4), ("validation", 2)):
        shards = open_shards(folder / split / "shards")
        assert [video.key for video in shards.entries] == [
            f"synthetic_{number:05d}" for number in range(num_videos)
        ]
        questions = json.loads((folder / split / "questions.json").read_text())
        assert sum(video.num_questions for video in shards.entries) == len(questions)
        assert all(4 <= video.num_frames <= 6 for video in shards.entries)
        assert shards.indexes[0].config["image_size"] == 64


def test_present_files_are_not_made_again(config: Config) -> None:
    folder = Path(config.synthetic.folder)
    times = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.suffix in (".mp4", ".tar") or path.name == "000000.json"
    }
    assert len(times) == 6 + 3 + 2
    build_and_pack(config)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_example_is_a_question_about_a_validation_video(config: Config) -> None:
    video, question, answer = build_and_pack(config).example()
    assert Path(video).is_file() and "validation" in video
    question_file = Path(config.synthetic.folder) / "validation" / "questions.json"
    (record,) = [
        record
        for record in json.loads(question_file.read_text())
        if record["video"] == Path(video).name
        and record["question"] == question
        and record["format"] == "open_ended"
    ]
    assert record["answer"] == answer


def test_other_settings_are_refused_and_nothing_is_overwritten(toy: ToyProject) -> None:
    with pytest.raises(
        SyntheticDataError, match=r"were made with other settings: .*generator\.json"
    ):
        build_and_pack(toy.config("none", "synthetic.image_size=32"))
    with pytest.raises(ShardError, match="has shards made from other files, questions or settings"):
        build_and_pack(toy.config("none", "video.max_frames=5"))
    assert len(open_shards(toy.yaml.parent / "world/train/shards").entries) == 4
