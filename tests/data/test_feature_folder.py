"""The folder that encoding fills: what is kept when, what another start finds, and what training reads in the end."""

import json
import resource
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mixed import KEYS
from safetensors.torch import load
from tiny import VIDEO
from torch import Tensor
from webdataset import WebDataset

from lit_hour.config.schema import Config, ImageConfig, VideoConfig
from lit_hour.data.encode_source import FrameShards, Place, Videos
from lit_hour.data.encoding import Encoding, deciding_settings
from lit_hour.data.feature_folder import FeatureFolder
from lit_hour.data.features import compress
from lit_hour.data.shards import open_shards
from lit_hour.data.visual import load_features, load_visual
from lit_hour.errors import ShardError
from lit_hour.types import Features

CONFIG = Config(video=VIDEO)
ENCODING = Encoding("bf16", 4, 3, deciding_settings(CONFIG), "a" * 64)


def tokens_of(images: Tensor) -> Tensor:
    """Colours of the four quarters of each frame: `(frames, 4, 3)`."""
    quarters = images.float().unfold(2, 16, 16).unfold(3, 16, 16).mean((-2, -1))  # (frames, 3, 2, 2)
    return quarters.flatten(2).transpose(1, 2) / 100  # (frames, 4, 3)


def open_folder(path: Path, frames: Path, encoding: Encoding = ENCODING, max_skipped: int = 0) -> FeatureFolder:
    return FeatureFolder(path, FrameShards(str(frames), CONFIG), encoding, max_skipped)


def encode_videos(folder: FeatureFolder, frames: Path, places: list[Place], encoding: Encoding = ENCODING) -> None:
    tokens: list[Tensor] = []
    for chunk in Videos(FrameShards(str(frames), CONFIG), places):
        if chunk.damage:
            folder.skip(chunk.place, chunk.damage)
        elif chunk.metadata:
            folder.keep(chunk.place, compress(torch.cat(tokens), encoding.precision), chunk.metadata)
            tokens = []
        else:
            tokens.append(tokens_of(chunk.images))


def encode(path: Path, frames: Path, encoding: Encoding = ENCODING, max_skipped: int = 0) -> FeatureFolder:
    """Everything that is missing."""
    folder = open_folder(path, frames, encoding, max_skipped)
    folder.prepare()
    encode_videos(folder, frames, folder.missing_videos(), encoding)
    for shard in folder.missing_shards():
        assert folder.is_ready(shard)
        folder.assemble(shard)
    folder.finish()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture(scope="module")
def encoded(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of features, not to be changed."""
    path = tmp_path_factory.mktemp("encoded")
    encode(path, packed)
    return path


# What is in the folder


def test_features_stand_where_the_frames_stood(encoded: Path, packed: Path) -> None:
    frames, features = open_shards(packed), open_shards(encoded)
    assert features.samples_per_shard(2) == frames.samples_per_shard(2)
    for one, other in zip(frames.subjects, features.subjects, strict=True):
        assert replace(other, offset=one.offset, size=one.size) == one
        seen, stored = frames.read_subject(one), features.read_subject(other)
        assert stored.questions == seen.questions and stored.duration_seconds == seen.duration_seconds
        visual, video = load_visual(stored, VIDEO, ImageConfig()), load_visual(seen, VIDEO, ImageConfig())
        assert isinstance(visual, Features) and visual.tokens.dtype == torch.bfloat16
        assert torch.equal(visual.tokens, tokens_of(video.images).bfloat16())  # type: ignore[union-attr]
        assert torch.equal(visual.timestamps, video.timestamps)  # type: ignore[union-attr]


def test_of_many_frames_those_are_taken_that_are_taken_of_frames(encoded: Path) -> None:
    shards = open_shards(encoded)
    stored = shards.read_subject(shards.subjects[-1])
    whole = load_features(stored, 6)
    for max_frames, chosen in [(6, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 5]), (1, [0])]:
        some = load_visual(stored, VideoConfig(max_frames=max_frames, min_frames=1), ImageConfig())
        assert isinstance(some, Features)
        assert torch.equal(some.tokens, whole.tokens[chosen]) and torch.equal(some.timestamps, whole.timestamps[chosen])


def test_the_index_says_what_the_features_are(encoded: Path, packed: Path) -> None:
    index = open_shards(encoded).indexes[0]
    assert index.encoding == ENCODING and index.settings == open_shards(packed).indexes[0].settings
    written, frames = (json.loads((folder / "000000.json").read_text()) for folder in (encoded, packed))
    assert written.keys() - frames.keys() == {"encoding"} and written["version"] == frames["version"]
    totals, before = (json.loads((folder / "index.json").read_text()) for folder in (encoded, packed))
    assert {**totals, "bytes": before["bytes"]} == before
    assert set(contents(encoded)) == set(contents(packed)) | {"encoding.json"}


def test_plain_tools_read_the_tars(encoded: Path) -> None:
    shards = open_shards(encoded)
    samples = list(WebDataset(str(encoded / "000001.tar"), shardshuffle=False, empty_check=False))
    for sample, record in zip(samples, shards.indexes[1].subjects, strict=True):
        assert sample["__key__"] == record.key and json.loads(sample["json"])["key"] == record.key
        assert torch.equal(load(sample["safetensors"])["tokens"], load_features(shards.read_subject(record), 9).tokens)
    with tarfile.open(encoded / "000001.tar") as tar:
        assert [member.name for member in tar] == ["c_1.safetensors", "c_1.json", "more/d_e.safetensors", "more/d_e.json"]


def test_pictures_and_texts_stay_as_they_are(mixed: Path, tmp_path: Path) -> None:
    encode(tmp_path / "out", mixed)
    frames, features = open_shards(mixed), open_shards(tmp_path / "out")
    assert [subject.key for subject in features.subjects] == KEYS
    for one, other in zip(frames.subjects, features.subjects, strict=True):
        if one.kind != "video":
            assert bytes(features.read_bytes(other)) == bytes(frames.read_bytes(one))


def test_int8_takes_half_the_room_and_comes_as_bf16(encoded: Path, packed: Path, tmp_path: Path) -> None:
    int8 = replace(ENCODING, precision="int8")
    encode(tmp_path / "out", packed, int8)
    exact, coarse = (open_shards(folder) for folder in (encoded, tmp_path / "out"))
    for one, other in zip(exact.subjects, coarse.subjects, strict=True):
        expected, tokens = (
            load_features(each.read_subject(record), 9).tokens for each, record in ((exact, one), (coarse, other))
        )
        assert tokens.dtype == torch.bfloat16
        assert ((tokens.float() - expected.float()).abs() <= expected.float().abs().amax(-1, keepdim=True) / 100).all()


# Damage


@pytest.fixture
def spoiled_features(encoded: Path, tmp_path: Path) -> Callable[[Callable[[bytes], bytes]], Path]:
    """Makes a copy of the features in which the last tar's bytes are changed, as many as before."""

    def spoil(change: Callable[[bytes], bytes]) -> Path:
        for name, content in contents(encoded).items():
            (tmp_path / name).write_bytes(change(content) if name == "000002.tar" else content)
        return tmp_path

    return spoil


def read_last(folder: Path) -> None:
    shards = open_shards(folder)
    shards.read_subject(shards.subjects[-1])


def test_a_damaged_token_is_named(spoiled_features: Callable[[Callable[[bytes], bytes]], Path]) -> None:
    def flip(content: bytes) -> bytes:
        place = content.index(b"more/f.json") - 200  # in the last of the tokens, or the filling behind
        start = content.rindex(b"}", 0, place) + 20
        return content[:start] + bytes([content[start] ^ 64]) + content[start + 1 :]

    with pytest.raises(
        ShardError, match=r"000002\.tar: video 'more/f': member more/f\.safetensors is damaged: its bytes are not those"
    ):
        read_last(spoiled_features(flip))


def test_a_member_that_is_missing_is_named(spoiled_features: Callable[[Callable[[bytes], bytes]], Path]) -> None:
    folder = spoiled_features(lambda content: b"\0" * 512 + content[512:])
    with pytest.raises(ShardError, match=r"video 'more/f': the member more/f\.safetensors is missing or its header is damaged"):
        read_last(folder)


def test_a_tar_that_shrinks_is_named(spoiled_features: Callable[[Callable[[bytes], bytes]], Path]) -> None:
    folder = spoiled_features(bytes)
    shards = open_shards(folder)
    (folder / "000002.tar").write_bytes((folder / "000002.tar").read_bytes()[:600])
    with pytest.raises(ShardError, match=r"000002\.tar ends inside the video 'more/f'"):
        shards.read_subject(shards.subjects[-1])
    with pytest.raises(ShardError, match=r"000002\.tar has 600 bytes, its index says"):
        open_shards(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"tokens_per_frame": 4', b'"tokens_per_frame": 5', r"holds .* and by its index"),
        (b'"encoding": {', b'"encoding": { "x": 1,', "is no index of a shard.*'x'"),
    ],
)
def test_an_index_that_does_not_fit_is_named(encoded: Path, tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    for name, content in contents(encoded).items():
        (tmp_path / name).write_bytes(content.replace(old, new))
    with pytest.raises(ShardError, match=message):
        read_last(tmp_path)


# Going on


def test_every_video_is_kept_at_once_and_encoded_once(encoded: Path, packed: Path, tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", packed)
    folder.prepare()
    everything = folder.missing_videos()
    encode_videos(folder, packed, everything[:3])
    again = open_folder(tmp_path / "out", packed)
    assert again.missing_videos() == everything[3:]
    assert [again.is_ready(shard) for shard in range(3)] == [True, False, False]
    with pytest.raises(ShardError, match="holds no shards"):
        open_shards(tmp_path / "out")
    again.prepare()
    again.assemble(0)
    assert again.missing_videos() == everything[3:] and again.missing_shards() == [1, 2]
    assert not (tmp_path / "out/unfinished/000000").exists()
    with pytest.raises(ShardError, match="is not finished"):
        open_shards(tmp_path / "out")
    encode(tmp_path / "out", packed)
    assert contents(tmp_path / "out") == contents(encoded)


def test_what_a_killed_process_left_half_written_goes_away(encoded: Path, packed: Path, tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", packed)
    folder.prepare()
    first, second, third, *_ = folder.missing_videos()
    encode_videos(folder, packed, [first, second, third])
    part = tmp_path / "out/unfinished/000000"
    (part / "0000.tar.77.unfinished").write_bytes(b"half")
    (part / "0001.json").unlink()  # killed between the two files of a video
    (tmp_path / "out/000000.tar").write_bytes(b"an index is what makes it count")
    again = open_folder(tmp_path / "out", packed)
    again.prepare()
    assert again.missing_videos()[:2] == [second, Place(1, 1)]
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    encode(tmp_path / "out", packed)
    assert contents(tmp_path / "out") == contents(encoded)


def test_a_single_video_that_lost_bytes_is_named(packed: Path, tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", packed)
    folder.prepare()
    encode_videos(folder, packed, folder.missing_videos())
    part = tmp_path / "out/unfinished/000000/0001.tar"
    part.write_bytes(part.read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"000000/0001\.tar is damaged: delete it and the \.json beside it"):
        folder.assemble(0)
    assert not list((tmp_path / "out").glob("0*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "int8"}, "encode.precision was 'bf16', is 'int8'"),
        ({"weights": "b" * 64}, r"the vision encoder had other weights \(SHA-256 aaaaaaaaaaaa, now bbbbbbbbbbbb\)"),
        ({"settings": {**ENCODING.settings, "model.vision.grid": 4}}, "model.vision.grid was 8, is 4"),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_encoding_is_refused_with_what_differs(
    encoded: Path, packed: Path, tmp_path: Path, change: dict, message: str, is_finished: bool
) -> None:
    path = encoded
    if not is_finished:
        path = tmp_path / "out"
        open_folder(path, packed).prepare()
    before = contents(encoded)
    with pytest.raises(ShardError, match=rf"{path} holds features that were made otherwise: {message}\. .*another folder"):
        open_folder(path, packed, replace(ENCODING, **change))
    assert contents(encoded) == before


def test_another_source_is_refused(encoded: Path, packed: Path, mixed: Path) -> None:
    with pytest.raises(ShardError, match="made otherwise: they are from other shards, files or questions"):
        open_folder(encoded, mixed)
    with pytest.raises(ShardError, match="holds shards that encoding has not made: encode into another folder"):
        open_folder(packed, packed)
    with pytest.raises(ShardError, match="holds features already: give the shards of frames"):
        FrameShards(str(encoded), CONFIG)


def test_a_folder_that_is_finished_has_nothing_missing(encoded: Path, packed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in encoded.glob("0*")}
    folder = open_folder(encoded, packed)
    assert not folder.missing_videos() and not folder.missing_shards()
    folder.prepare()
    assert folder.finish().num_questions == 15
    assert {path: path.stat().st_mtime_ns for path in encoded.glob("0*")} == before


# Skipping


@pytest.fixture
def damaged(spoiled: Callable[[str, Callable[[bytes], bytes]], Path]) -> Path:
    """Shards of frames of which a video in the middle is damaged."""
    return spoiled("000001.tar", lambda content: content.replace(b"c_1.000002.jpg", b"c_1.000009.jpg"))


def test_a_damaged_video_stops_encoding(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"c_1\.000002\.jpg is missing.*; mend or remove it, .*pack\.max_skipped \(now 0\)"):
        encode(tmp_path / "out", damaged)


def test_a_damaged_video_within_the_budget_is_left_out_and_listed(damaged: Path, tmp_path: Path) -> None:
    encode(tmp_path / "out", damaged, max_skipped=1)
    shards = open_shards(tmp_path / "out")
    assert [video.key for video in shards.subjects] == ["a", "b", "more/d_e", "more/f"]
    assert [(each.name, "000002.jpg is missing" in each.reason) for each in shards.indexes[1].skipped] == [("c_1", True)]
    assert json.loads((tmp_path / "out/index.json").read_text())["skipped"][0]["name"] == "c_1"
    with pytest.raises(ShardError, match=r"was encoded without 1 subjects, and pack\.max_skipped is 0"):
        encode(tmp_path / "out", damaged)


def test_a_skipped_video_is_tried_again_by_the_next_start(damaged: Path, tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", damaged, max_skipped=1)
    folder.prepare()
    encode_videos(folder, damaged, folder.missing_videos())
    assert not folder.missing_videos() and folder.is_ready(1)
    again = open_folder(tmp_path / "out", damaged, max_skipped=1)
    again.prepare()
    assert again.missing_videos() == [Place(1, 0)]


def test_a_damaged_picture_is_counted_and_left_out(mixed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in contents(mixed).items():
        (copy / name).write_bytes(content.replace(b"photo.000000.jpg", b"photo.000007.jpg"))
    with pytest.raises(ShardError, match=r"photo\.000000\.jpg or .* is missing.*pack\.max_skipped \(now 0\)"):
        encode(tmp_path / "out", copy)
    encode(tmp_path / "out", copy, max_skipped=1)
    shards = open_shards(tmp_path / "out")
    assert [subject.key for subject in shards.subjects] == [key for key in KEYS if key != "photo"]
    assert [shards.read_subject(subject).key for subject in shards.subjects] == [subject.key for subject in shards.subjects]


# The disk


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_takes_no_more_is_named_and_what_is_there_stays(encoded: Path, packed: Path, tmp_path: Path) -> None:
    with largest_file(1500), pytest.raises(ShardError, match=r"0000\.tar could not be written: File too large: make room"):
        encode(tmp_path / "out", packed)
    assert not list((tmp_path / "out/unfinished").glob("*/*"))
    with largest_file(4000), pytest.raises(ShardError, match=r"000000\.tar could not be written: File too large: make room"):
        encode(tmp_path / "out", packed)
    assert not open_folder(tmp_path / "out", packed).missing_videos()
    encode(tmp_path / "out", packed)
    assert contents(tmp_path / "out") == contents(encoded)


def test_a_place_that_is_no_folder_is_named(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match=r"file/out/unfinished cannot be used as a folder for shards.*Not a directory"):
        open_folder(tmp_path / "file/out", packed).prepare()
