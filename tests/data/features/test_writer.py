"""The folder that encoding fills: what is kept when, and what another start finds."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.data.features.source import FrameShardSource, SampleRef
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError
from tests.data.colours import CONFIG, ENCODING, contents, encode, encode_videos, open_folder
from tests.data.mixed import KEYS
from tests.helpers.disk import limit_file_size

# Going on


def test_every_video_is_kept_at_once_and_encoded_once(
    encoded: Path, packed: Path, tmp_path: Path
) -> None:
    folder = open_folder(tmp_path / "out", packed)
    folder.open()
    everything = folder.missing_videos()
    encode_videos(folder, packed, everything[:3])
    again = open_folder(tmp_path / "out", packed)
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
    encode(tmp_path / "out", packed)
    assert contents(tmp_path / "out") == contents(encoded)


def test_what_a_killed_process_left_half_written_goes_away(
    encoded: Path, packed: Path, tmp_path: Path
) -> None:
    folder = open_folder(tmp_path / "out", packed)
    folder.open()
    first, second, third, *_ = folder.missing_videos()
    encode_videos(folder, packed, [first, second, third])
    part = tmp_path / "out/parts/000000"
    (part / "0000.tar.77.unfinished").write_bytes(b"half")
    (part / "0001.json").unlink()  # killed between the two files of a video
    (tmp_path / "out/000000.tar").write_bytes(b"an index is what makes it count")
    again = open_folder(tmp_path / "out", packed)
    again.open()
    assert again.missing_videos()[:2] == [second, SampleRef(1, 1)]
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    encode(tmp_path / "out", packed)
    assert contents(tmp_path / "out") == contents(encoded)


def test_a_single_video_that_lost_bytes_is_named(packed: Path, tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", packed)
    folder.open()
    encode_videos(folder, packed, folder.missing_videos())
    part = tmp_path / "out/parts/000000/0001.tar"
    part.write_bytes(part.read_bytes()[:-512])
    with pytest.raises(
        ShardError, match=r"000000/0001\.tar is corrupt\. Delete it and the \.json beside it"
    ):
        folder.write_shard(0)
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
            {"config": {**ENCODING.config, "model.vision.grid": 4}},
            "model.vision.grid was 8, is 4",
        ),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_encoding_is_refused_with_what_differs(
    encoded: Path, packed: Path, tmp_path: Path, change: dict, message: str, is_finished: bool
) -> None:
    path = encoded
    if not is_finished:
        path = tmp_path / "out"
        open_folder(path, packed).open()
    before = contents(encoded)
    with pytest.raises(
        ShardError,
        match=rf"{path} has features that were extracted differently: {message}\. .*another folder",
    ):
        open_folder(path, packed, replace(ENCODING, **change))
    assert contents(encoded) == before


def test_another_source_is_refused(encoded: Path, packed: Path, mixed: Path) -> None:
    with pytest.raises(
        ShardError, match="extracted differently: the shards, files or questions have changed"
    ):
        open_folder(encoded, mixed)
    with pytest.raises(
        ShardError,
        match=r"has shards that feature extraction has not written\. Write to another folder",
    ):
        open_folder(packed, packed)
    with pytest.raises(ShardError, match=r"already stores features\. Give the shards of frames"):
        FrameShardSource(str(encoded), CONFIG)


def test_a_folder_that_is_finished_has_nothing_missing(encoded: Path, packed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in encoded.glob("0*")}
    folder = open_folder(encoded, packed)
    assert not folder.missing_videos() and not folder.missing_shards()
    folder.open()
    assert folder.write_totals().num_questions == 15
    assert {path: path.stat().st_mtime_ns for path in encoded.glob("0*")} == before


# Skipping


@pytest.fixture
def damaged(spoiled: Callable[[str, Callable[[bytes], bytes]], Path]) -> Path:
    """Shards of frames of which a video in the middle is damaged."""
    return spoiled(
        "000001.tar", lambda content: content.replace(b"c_1.000002.jpg", b"c_1.000009.jpg")
    )


def test_a_damaged_video_stops_encoding(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ShardError,
        match=r"c_1\.000002\.jpg is missing.* Repair or remove it, "
        r".*pack\.max_bad_samples \(now 0\)",
    ):
        encode(tmp_path / "out", damaged)


def test_a_damaged_video_within_the_budget_is_left_out_and_listed(
    damaged: Path, tmp_path: Path
) -> None:
    encode(tmp_path / "out", damaged, max_skipped=1)
    shards = open_shards(tmp_path / "out")
    assert [video.key for video in shards.entries] == ["a", "b", "more/d_e", "more/f"]
    assert [
        (each.name, "000002.jpg is missing" in each.reason) for each in shards.indexes[1].skipped
    ] == [("c_1", True)]
    assert json.loads((tmp_path / "out/index.json").read_text())["skipped"][0]["name"] == "c_1"
    with pytest.raises(
        ShardError, match=r"was written without 1 samples, but pack\.max_bad_samples=0"
    ):
        encode(tmp_path / "out", damaged)


def test_a_skipped_video_is_tried_again_by_the_next_start(damaged: Path, tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", damaged, max_skipped=1)
    folder.open()
    encode_videos(folder, damaged, folder.missing_videos())
    assert not folder.missing_videos() and folder.is_shard_complete(1)
    again = open_folder(tmp_path / "out", damaged, max_skipped=1)
    again.open()
    assert again.missing_videos() == [SampleRef(1, 0)]


def test_a_damaged_picture_is_counted_and_left_out(mixed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in contents(mixed).items():
        (copy / name).write_bytes(content.replace(b"photo.000000.jpg", b"photo.000007.jpg"))
    with pytest.raises(
        ShardError, match=r"photo\.000000\.jpg or .* is missing.*pack\.max_bad_samples \(now 0\)"
    ):
        encode(tmp_path / "out", copy)
    encode(tmp_path / "out", copy, max_skipped=1)
    shards = open_shards(tmp_path / "out")
    assert [subject.key for subject in shards.entries] == [key for key in KEYS if key != "photo"]
    assert [shards.read(subject).key for subject in shards.entries] == [
        subject.key for subject in shards.entries
    ]


# The disk


def test_a_disk_that_takes_no_more_is_named_and_what_is_there_stays(
    encoded: Path, packed: Path, tmp_path: Path
) -> None:
    with (
        limit_file_size(1500),
        pytest.raises(
            ShardError, match=r"Cannot write .*0000\.tar: File too large\. Free disk space"
        ),
    ):
        encode(tmp_path / "out", packed)
    assert not list((tmp_path / "out/parts").glob("*/*"))
    with (
        limit_file_size(4000),
        pytest.raises(
            ShardError, match=r"Cannot write .*000000\.tar: File too large\. Free disk space"
        ),
    ):
        encode(tmp_path / "out", packed)
    assert not open_folder(tmp_path / "out", packed).missing_videos()
    encode(tmp_path / "out", packed)
    assert contents(tmp_path / "out") == contents(encoded)


def test_a_place_that_is_no_folder_is_named(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ShardError,
        match=r"Cannot use .*file/out/parts as a folder of shards.*Not a directory",
    ):
        open_folder(tmp_path / "file/out", packed).open()
