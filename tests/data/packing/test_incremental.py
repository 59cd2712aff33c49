"""Shards that are written while their videos are made equal the shards of `pack`."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.data.packing import incremental
from lit_hour.data.packing.incremental import IncrementalPacker
from lit_hour.data.packing.pack import pack
from lit_hour.errors import ShardError
from lit_hour.io.file_lock import dir_lock, is_locked
from lit_hour.media.jpeg_frames import JpegFrames, read_jpeg_frames
from tests.data.factories import PACK, VIDEO, VIDEO_NAMES
from tests.helpers.disk import limit_file_size


def read(folder: Path, name: str) -> JpegFrames:
    return read_jpeg_frames(folder / name, VIDEO, PACK.jpeg_quality)


def shards_in(folder: Path) -> dict[str, bytes]:
    """Return tars and indexes; the totals are not written incrementally."""
    paths = sorted(folder.glob("0*"))
    return {path.name: path.read_bytes() for path in paths}


def test_shards_equal_those_of_pack_in_any_order(
    tiny_videos: Path, tiny_questions: Path, frame_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with IncrementalPacker(tiny_videos, tiny_questions, out, VIDEO, PACK) as packer:
        for number, name in enumerate(reversed(VIDEO_NAMES)):
            assert len(list(out.glob("*.tar"))) == (number + 1) // 2
            packer.add(name, read(tiny_videos, name))
    assert shards_in(out) == shards_in(frame_shards)
    before = {path: path.stat().st_mtime_ns for path in out.glob("0*")}
    pack(tiny_videos, tiny_questions, out, VIDEO, PACK)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_pack_writes_shards_of_which_frames_are_missing(
    tiny_videos: Path, tiny_questions: Path, frame_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with IncrementalPacker(tiny_videos, tiny_questions, out, VIDEO, PACK) as packer:
        for name in VIDEO_NAMES[1:4]:
            packer.add(name, read(tiny_videos, name))
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["000001.tar"]
    pack(tiny_videos, tiny_questions, out, VIDEO, PACK)
    assert shards_in(out) == shards_in(frame_shards)


def test_frames_of_shards_with_videos_that_will_not_come_are_not_kept(
    tiny_videos: Path, tiny_questions: Path, tmp_path: Path
) -> None:
    out, files = tmp_path / "out", set(VIDEO_NAMES[1:4])
    with IncrementalPacker(tiny_videos, tiny_questions, out, VIDEO, PACK, files) as packer:
        for name in sorted(files):
            packer.add(name, read(tiny_videos, name))
        assert not packer._frames
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["000001.tar"]


def test_shards_of_other_settings_are_kept_and_refused(
    tiny_videos: Path, tiny_questions: Path, frame_shards: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(frame_shards, tmp_path / "out")
    (out / "000001.tar").unlink()
    before = shards_in(out)
    other = replace(VIDEO, max_frames=5)
    with IncrementalPacker(tiny_videos, tiny_questions, out, other, PACK) as packer:
        for name in VIDEO_NAMES:
            packer.add(name, read_jpeg_frames(tiny_videos / name, other, PACK.jpeg_quality))
    assert shards_in(out) == before
    with pytest.raises(ShardError, match="has shards made from other files, questions or settings"):
        pack(tiny_videos, tiny_questions, out, other, PACK)


def test_full_disk_is_reported_and_finished_shards_are_kept(
    tiny_videos: Path, tiny_questions: Path, frame_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with IncrementalPacker(tiny_videos, tiny_questions, out, VIDEO, PACK) as packer:
        for name in VIDEO_NAMES[:2]:
            packer.add(name, read(tiny_videos, name))
        packer.add(VIDEO_NAMES[2], read(tiny_videos, VIDEO_NAMES[2]))
        last = read(tiny_videos, VIDEO_NAMES[3])
        with (
            limit_file_size(9000),
            pytest.raises(ShardError, match=r"Cannot write .*000001\.tar: File too large"),
        ):
            packer.add(VIDEO_NAMES[3], last)
    assert not list(out.glob("*.unfinished"))
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["000000.tar"]
    pack(tiny_videos, tiny_questions, out, VIDEO, PACK)
    assert shards_in(out) == shards_in(frame_shards)


def test_folder_is_locked_and_cleaned(
    tiny_videos: Path, tiny_questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "000000.tar.1.unfinished").write_bytes(b"of a killed run")
    with IncrementalPacker(tiny_videos, tiny_questions, out, VIDEO, PACK):
        assert is_locked(dir_lock(out))
        assert not list(out.glob("*.unfinished"))
    assert not is_locked(dir_lock(out))


def test_frames_are_dropped_with_their_shard(
    tiny_videos: Path,
    tiny_questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    monkeypatch.setattr(incremental, "write_shard", lambda plan, *_: taken.append(plan.tar.name))
    with IncrementalPacker(tiny_videos, tiny_questions, tmp_path, VIDEO, PACK) as packer:
        for name in VIDEO_NAMES:
            packer.add(name, JpegFrames([], [], 1.0))
            assert len(packer._frames) <= 1
    assert taken == ["000000.tar", "000001.tar", "000002.tar"]
