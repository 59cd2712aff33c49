"""The output folder of feature extraction, and how another start continues."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.data.features.source import FrameShardSource, SampleRef
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError
from tests.data.factories import MIXED_KEYS, shard_files
from tests.data.feature_factories import (
    CONFIG,
    METADATA,
    extract_all,
    open_writer,
    save_videos,
)
from tests.helpers.disk import limit_file_size

# Resuming


def test_saved_videos_are_not_missing_at_the_next_start(
    feature_shards: Path, frame_shards: Path, tmp_path: Path
) -> None:
    writer = open_writer(tmp_path / "out", frame_shards)
    writer.open()
    everything = writer.missing_videos()
    save_videos(writer, frame_shards, everything[:3])
    again = open_writer(tmp_path / "out", frame_shards)
    assert again.missing_videos() == everything[3:]
    assert [again.is_shard_complete(shard) for shard in range(3)] == [True, False, False]
    with pytest.raises(ShardError, match="contains no shards"):
        open_shards(tmp_path / "out")
    again.open()
    again.write_shard(0)
    assert again.missing_videos() == everything[3:] and again.missing_shards() == [1, 2]
    assert not (tmp_path / "out/parts/000000").exists()
    with pytest.raises(ShardError, match="is unfinished"):
        open_shards(tmp_path / "out")
    extract_all(tmp_path / "out", frame_shards)
    assert shard_files(tmp_path / "out") == shard_files(feature_shards)


def test_open_removes_incomplete_files_of_a_killed_process(
    feature_shards: Path, frame_shards: Path, tmp_path: Path
) -> None:
    writer = open_writer(tmp_path / "out", frame_shards)
    writer.open()
    first, second, third, *_ = writer.missing_videos()
    save_videos(writer, frame_shards, [first, second, third])
    part = tmp_path / "out/parts/000000"
    (part / "0000.tar.77.unfinished").write_bytes(b"half")
    (part / "0001.json").unlink()  # as if killed between the two files of a video
    (tmp_path / "out/000000.tar").write_bytes(b"an index is what makes it count")
    again = open_writer(tmp_path / "out", frame_shards)
    again.open()
    assert again.missing_videos()[:2] == [second, SampleRef(1, 1)]
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    extract_all(tmp_path / "out", frame_shards)
    assert shard_files(tmp_path / "out") == shard_files(feature_shards)


def test_truncated_part_is_rejected(frame_shards: Path, tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "out", frame_shards)
    writer.open()
    save_videos(writer, frame_shards, writer.missing_videos())
    part = tmp_path / "out/parts/000000/0001.tar"
    part.write_bytes(part.read_bytes()[:-512])
    with pytest.raises(
        ShardError, match=r"000000/0001\.tar is corrupt\. Delete it and the \.json beside it"
    ):
        writer.write_shard(0)
    assert not list((tmp_path / "out").glob("0*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "int8"}, "features.precision was 'bf16', is 'int8'"),
        (
            {"encoder_sha256": "b" * 64},
            r"the vision encoder has other weights \(SHA-256 was aaaaaaaaaaaa, is bbbbbbbbbbbb\)",
        ),
        (
            {"config": {**METADATA.config, "model.vision.grid": 4}},
            "model.vision.grid was 8, is 4",
        ),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_other_metadata_is_rejected_with_each_difference(
    feature_shards: Path,
    frame_shards: Path,
    tmp_path: Path,
    change: dict,
    message: str,
    is_finished: bool,
) -> None:
    path = feature_shards
    if not is_finished:
        path = tmp_path / "out"
        open_writer(path, frame_shards).open()
    before = shard_files(feature_shards)
    with pytest.raises(
        ShardError,
        match=rf"{path} has features that were extracted differently: {message}\. .*another folder",
    ):
        open_writer(path, frame_shards, replace(METADATA, **change))
    assert shard_files(feature_shards) == before


def test_other_source_is_rejected(
    feature_shards: Path, frame_shards: Path, mixed_shards: Path
) -> None:
    with pytest.raises(
        ShardError, match="extracted differently: the shards, files or questions have changed"
    ):
        open_writer(feature_shards, mixed_shards)
    with pytest.raises(
        ShardError,
        match=r"has shards that feature extraction has not written\. Write to another folder",
    ):
        open_writer(frame_shards, frame_shards)
    with pytest.raises(ShardError, match=r"already stores features\. Give the shards of frames"):
        FrameShardSource(str(feature_shards), CONFIG)


def test_finished_folder_is_not_written_again(feature_shards: Path, frame_shards: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in feature_shards.glob("0*")}
    writer = open_writer(feature_shards, frame_shards)
    assert not writer.missing_videos() and not writer.missing_shards()
    writer.open()
    assert writer.write_totals().num_questions == 15
    assert {path: path.stat().st_mtime_ns for path in feature_shards.glob("0*")} == before


# Skipping


@pytest.fixture
def damaged(corrupt_copy: Callable[[str, Callable[[bytes], bytes]], Path]) -> Path:
    """Frame shards with a corrupt video in the middle."""
    return corrupt_copy(
        "000001.tar", lambda content: content.replace(b"c_1.000002.jpg", b"c_1.000009.jpg")
    )


def test_corrupt_video_stops_extraction(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ShardError,
        match=r"c_1\.000002\.jpg is missing.* Repair or remove it, "
        r".*pack\.max_bad_samples \(now 0\)",
    ):
        extract_all(tmp_path / "out", damaged)


def test_corrupt_video_within_the_budget_is_skipped_and_listed(
    damaged: Path, tmp_path: Path
) -> None:
    extract_all(tmp_path / "out", damaged, max_skipped=1)
    shards = open_shards(tmp_path / "out")
    assert [video.key for video in shards.entries] == ["a", "b", "more/d_e", "more/f"]
    assert [
        (sample.name, "000002.jpg is missing" in sample.reason)
        for sample in shards.indexes[1].skipped
    ] == [("c_1", True)]
    assert json.loads((tmp_path / "out/index.json").read_text())["skipped"][0]["name"] == "c_1"
    with pytest.raises(
        ShardError, match=r"was written without 1 samples, but pack\.max_bad_samples=0"
    ):
        extract_all(tmp_path / "out", damaged)


def test_skipped_video_is_tried_again_at_the_next_start(damaged: Path, tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "out", damaged, max_skipped=1)
    writer.open()
    save_videos(writer, damaged, writer.missing_videos())
    assert not writer.missing_videos() and writer.is_shard_complete(1)
    again = open_writer(tmp_path / "out", damaged, max_skipped=1)
    again.open()
    assert again.missing_videos() == [SampleRef(1, 0)]


def test_corrupt_image_counts_as_skipped(mixed_shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in shard_files(mixed_shards).items():
        (copy / name).write_bytes(content.replace(b"photo.000000.jpg", b"photo.000007.jpg"))
    with pytest.raises(
        ShardError, match=r"photo\.000000\.jpg or .* is missing.*pack\.max_bad_samples \(now 0\)"
    ):
        extract_all(tmp_path / "out", copy)
    extract_all(tmp_path / "out", copy, max_skipped=1)
    shards = open_shards(tmp_path / "out")
    assert [entry.key for entry in shards.entries] == [key for key in MIXED_KEYS if key != "photo"]
    assert [shards.read(entry).key for entry in shards.entries] == [
        entry.key for entry in shards.entries
    ]


# Disk errors


def test_full_disk_is_reported_and_saved_videos_stay(
    feature_shards: Path, frame_shards: Path, tmp_path: Path
) -> None:
    with (
        limit_file_size(1500),
        pytest.raises(
            ShardError, match=r"Cannot write .*0000\.tar: File too large\. Free disk space"
        ),
    ):
        extract_all(tmp_path / "out", frame_shards)
    assert not list((tmp_path / "out/parts").glob("*/*"))
    with (
        limit_file_size(4000),
        pytest.raises(
            ShardError, match=r"Cannot write .*000000\.tar: File too large\. Free disk space"
        ),
    ):
        extract_all(tmp_path / "out", frame_shards)
    assert not open_writer(tmp_path / "out", frame_shards).missing_videos()
    extract_all(tmp_path / "out", frame_shards)
    assert shard_files(tmp_path / "out") == shard_files(feature_shards)


def test_output_path_inside_a_file_is_rejected(frame_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ShardError,
        match=r"Cannot use .*file/out/parts as a folder of shards.*Not a directory",
    ):
        open_writer(tmp_path / "file/out", frame_shards).open()
