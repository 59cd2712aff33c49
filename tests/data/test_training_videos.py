"""A video of the training data is found by its content, wherever it is and whatever its name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.config.data import SourceConfig
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.shards.shard_index import FileStamp, ShardIndex, write_index
from lit_hour.data.training_videos import TrainingVideos
from lit_hour.io.hashing import hash_path


def make_config(init_from: str = "", **sources: SourceConfig) -> Config:
    config = load_config()
    return replace(
        config,
        data=replace(config.data, sources=sources),
        training=replace(config.training, init_from=init_from),
    )


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, content in {"a.mp4": b"a" * 9, "b.mp4": b"b" * 9, "c.mp4": b"c" * 5}.items():
        (folder / name).write_bytes(content)
    return folder


def pack(folder: Path, *files: Path) -> SourceConfig:
    """Write the index of a shard that was made from some files."""
    folder.mkdir(exist_ok=True)
    stamps = {
        file.name: FileStamp(file.stat().st_size, 1, hash_path(file), checked_mtime_ns=1)
        for file in files
    }
    write_index(
        folder / "000000.json", ShardIndex("000000.tar", 0, "", {}, "", (), (), files=stamps)
    )
    return SourceConfig(shards=str(folder))


def test_a_copy_under_another_name_is_found(videos: Path, tmp_path: Path) -> None:
    source = pack(tmp_path / "shards", videos / "a.mp4")
    shutil.copy(videos / "a.mp4", tmp_path / "other.mkv")
    known = TrainingVideos.of_run(make_config(world=source))
    files = [tmp_path / "other.mkv", videos / "b.mp4", videos / "c.mp4"]
    assert known.find(files) == {tmp_path / "other.mkv"} and known.unknown == {}
    unused = replace(source, weight=0)
    assert TrainingVideos.of_run(make_config(world=unused)).find(files) == set()


def test_only_files_of_a_known_size_are_read(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = TrainingVideos.of_run(make_config(world=pack(tmp_path / "shards", videos / "a.mp4")))
    read: list[str] = []

    def hash_and_note(path: Path) -> str:
        read.append(path.name)
        return hash_path(path)

    monkeypatch.setattr("lit_hour.data.training_videos.hash_path", hash_and_note)
    assert known.find(sorted(videos.iterdir())) == {videos / "a.mp4"}
    assert read == ["a.mp4", "b.mp4"]


def test_files_without_packing_are_compared(videos: Path, tmp_path: Path) -> None:
    source = SourceConfig(shards=str(videos), questions="questions.json")
    shutil.copy(videos / "b.mp4", tmp_path / "copy.mp4")
    (tmp_path / "same_size.mp4").write_bytes(b"x" * 9)
    known = TrainingVideos.of_run(make_config(files=source))
    files = [tmp_path / "copy.mp4", tmp_path / "same_size.mp4", videos / "c.mp4"]
    assert known.find(files) == {tmp_path / "copy.mp4", videos / "c.mp4"}


def test_sources_that_cannot_be_compared_are_named(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/000000.json").write_text("{")
    sources = {
        "gone": SourceConfig(shards=str(tmp_path / "gone")),
        "moved": SourceConfig(shards=str(tmp_path / "gone"), questions="questions.json"),
        "old": pack(tmp_path / "old"),
        "damaged": SourceConfig(shards=str(tmp_path / "damaged")),
        "tars": SourceConfig(shards="data/{0..9}.tar"),
        "web": SourceConfig(shards="https://example.org/shards"),
    }
    known = TrainingVideos.of_run(make_config(init_from=str(tmp_path / "published"), **sources))
    assert known.find(videos.iterdir()) == set()
    reasons = {key.split(".")[2]: reason for key, reason in known.unknown.items() if "data." in key}
    assert reasons.keys() == sources.keys()
    assert reasons["gone"] == reasons["moved"] == "the folder is not there"
    assert reasons["old"] == "1 of 1 shards have no digests of their files"
    assert any(key.startswith("training.init_from=") for key in known.unknown)


def test_the_data_of_the_run_that_it_started_from_counts(videos: Path, tmp_path: Path) -> None:
    pack(tmp_path / "shards", videos / "a.mp4")
    (tmp_path / "stage1").mkdir()
    settings = f"data:\n  sources:\n    one:\n      shards: {tmp_path}/shards\n"
    settings += f"training:\n  init_from: {tmp_path}/stage1\n"  # a circle ends
    (tmp_path / "stage1/config.yaml").write_text(settings)
    known = TrainingVideos.of_run(make_config(init_from=str(tmp_path / "stage1")))
    assert known.find(videos.iterdir()) == {videos / "a.mp4"} and known.unknown == {}
