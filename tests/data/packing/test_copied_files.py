"""Files and shards that were copied or moved are still the same; changed ones are found."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lit_hour.config.schema import Config
from lit_hour.data.features.source import VideoFileSource
from lit_hour.data.packing import shard_plan
from lit_hour.data.packing.pack import pack
from lit_hour.errors import ShardError
from tests.data.factories import PACK, VIDEO, shard_files


@dataclass(frozen=True)
class PackedSet:
    """A folder with videos, their questions, and the shards made from them."""

    folder: Path

    def pack(self) -> None:
        pack(self.folder / "videos", self.folder / "questions.json", self.shards, VIDEO, PACK)

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    def contents(self) -> dict[str, bytes]:
        """Return the shards without their indexes, which hold times."""
        files = shard_files(self.shards)
        return {name: content for name, content in files.items() if name.endswith(".tar")}


@pytest.fixture
def packed(tiny_videos: Path, tiny_questions: Path, tmp_path: Path) -> PackedSet:
    folder = tmp_path / "set"
    shutil.copytree(tiny_videos, folder / "videos")
    shutil.copy(tiny_questions, folder / "questions.json")
    packed = PackedSet(folder)
    packed.pack()
    return packed


def copy(folder: Path) -> Path:
    """Copy a folder as `cp -r` does: with new times."""
    return Path(shutil.copytree(folder, folder.with_name("copied"), copy_function=shutil.copyfile))


def move(folder: Path) -> Path:
    return folder.rename(folder.with_name("moved"))


def set_times(folder: Path) -> Path:
    """Round the times to seconds, as some file systems and archives do, and shift them."""
    for file in folder.rglob("*"):
        seconds = int(file.stat().st_mtime) - 3600
        os.utime(file, (seconds, seconds))
    return folder


@pytest.mark.parametrize("change", [copy, move, set_times])
def test_a_copied_or_moved_set_is_packed_already(
    packed: PackedSet, change: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = packed.contents()
    other = PackedSet(change(packed.folder))
    times = {path: path.stat().st_mtime_ns for path in other.shards.glob("*.tar")}
    other.pack()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert other.contents() == before

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(shard_plan, "hash_path", refuse)  # known by its time from now on
    other.pack()


@pytest.mark.parametrize("change", [copy, move, set_times])
def test_a_changed_file_of_the_same_size_is_found(
    packed: PackedSet, change: Callable[[Path], Path]
) -> None:
    other = PackedSet(change(packed.folder))
    file = other.folder / "videos/a.mp4"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    before = shard_files(other.shards)
    with pytest.raises(ShardError, match="has shards made from other files"):
        other.pack()
    assert shard_files(other.shards) == before
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    other.pack()


def test_shards_of_an_earlier_version_are_kept_and_may_be_copied_from_then_on(
    packed: PackedSet,
) -> None:
    for path in packed.shards.glob("0*.json"):
        index = json.loads(path.read_text())
        del index["files"]
        path.write_text(json.dumps(index))
    packed.pack()
    PackedSet(copy(packed.folder)).pack()


def test_a_set_is_copied_between_two_starts_of_packing(packed: PackedSet) -> None:
    before = packed.contents()
    (packed.shards / "000001.tar").unlink()
    other = PackedSet(copy(packed.folder))
    other.pack()
    assert other.contents() == before


def test_features_of_files_that_were_copied_belong_to_them(packed: PackedSet) -> None:
    def fingerprints(folder: Path) -> list[str]:
        source = VideoFileSource(
            folder / "videos",
            folder / "questions.json",
            folder / "shards",
            Config(video=VIDEO, pack=PACK),
        )
        return [source.fingerprint(shard) for shard in range(source.num_shards)]

    before = fingerprints(packed.folder)
    other = copy(packed.folder)
    assert fingerprints(other) == before
    shutil.rmtree(other / "shards")
    assert fingerprints(other) != before
