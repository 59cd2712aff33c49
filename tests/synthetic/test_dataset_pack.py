import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_hour.config.schema import Config
from lit_hour.data.packing.decode_worker import DecodeWorker
from lit_hour.data.packing.pack import pack
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError, SyntheticDataError
from lit_hour.synthetic.packing import build_and_pack
from tests import REPOSITORY
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


def read_tars(folder: Path) -> dict[str, bytes]:
    paths = sorted(folder.glob("*/shards/*.tar"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_shards_come_from_the_rendering_processes_and_equal_packed_ones(
    toy: ToyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.config("none", f"synthetic.folder={tmp_path / 'new'}")
    monkeypatch.setattr(DecodeWorker, "_start", None)  # nothing is decoded again
    dataset = build_and_pack(config)
    monkeypatch.undo()
    for videos, questions in dataset.splits:
        out = tmp_path / "packed" / videos.parent.name / "shards"
        pack(videos, questions, out, config.video, config.pack)
    tars = read_tars(tmp_path / "new")
    assert len(tars) == 3 and tars == read_tars(tmp_path / "packed")
    assert tars == read_tars(Path(toy.config("none").synthetic.folder))


def test_sampling_that_needs_the_packer_is_packed_afterwards(
    toy: ToyProject, tmp_path: Path
) -> None:
    config = toy.config(
        "none", f"synthetic.folder={tmp_path}", "video.sampling=published", "video.frames=first"
    )
    build_and_pack(config)
    assert len(read_tars(tmp_path)) == 3


BUILD_AND_PACK = """
import sys
from lit_hour.config.load import load_config
from lit_hour.synthetic.packing import build_and_pack
build_and_pack(load_config(sys.argv[1], sys.argv[2:]))
"""


def start_build_process(config_file: Path, *overrides: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD_AND_PACK, str(config_file), *overrides],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_build_is_completed_by_the_next_one(toy: ToyProject, tmp_path: Path) -> None:
    """Shards that were written stay; the others are packed, byte for byte as without the kill."""
    settings = ("synthetic.num_videos=14", "synthetic.duration_seconds=200")
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    config = toy.config("none", *settings, f"synthetic.folder={killed}")
    process = start_build_process(toy.yaml, *settings, f"synthetic.folder={killed}")
    deadline = time.monotonic() + 120
    while not list(killed.glob("train/shards/0*.json")):
        assert process.poll() is None and time.monotonic() < deadline, "no shard was written"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "train" / "totals.json").exists()
    finished = {
        path.with_suffix(".tar"): path.with_suffix(".tar").stat().st_mtime_ns
        for path in killed.glob("*/shards/0*.json")
    }
    build_and_pack(config)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list(killed.rglob("*.unfinished"))
    build_and_pack(toy.config("none", *settings, f"synthetic.folder={uninterrupted}"))
    assert read_tars(killed) == read_tars(uninterrupted) and len(read_tars(uninterrupted)) == 8


@pytest.mark.slow
def test_two_starts_at_once_build_and_pack_one_data_set(toy: ToyProject, tmp_path: Path) -> None:
    processes = [start_build_process(toy.yaml, f"synthetic.folder={tmp_path}") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert read_tars(tmp_path) == read_tars(Path(toy.config("none").synthetic.folder))
    assert not list(tmp_path.rglob("*.unfinished"))
