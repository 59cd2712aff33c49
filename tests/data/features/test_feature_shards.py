"""Reading of feature shards, and errors for corrupt ones."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from webdataset import WebDataset

from lit_hour.config.schema import Config, ImageConfig, VideoConfig
from lit_hour.data.datasets import load_features, load_visual
from lit_hour.data.shards.reader import open_shards
from lit_hour.data.training_samples import samples_per_shard
from lit_hour.errors import ShardError
from lit_hour.types import Features
from tests.data.factories import MIXED_KEYS, VIDEO, shard_files
from tests.data.feature_factories import METADATA, extract_all, mean_colors


def test_feature_shards_have_the_samples_of_the_frame_shards(
    feature_shards: Path, frame_shards: Path
) -> None:
    frames, features = open_shards(frame_shards), open_shards(feature_shards)
    assert samples_per_shard(features, Config()) == samples_per_shard(frames, Config())
    for one, other in zip(frames.entries, features.entries, strict=True):
        assert replace(other, offset=one.offset, num_bytes=one.num_bytes) == one
        seen, stored = frames.read(one), features.read(other)
        assert (
            stored.questions == seen.questions and stored.duration_seconds == seen.duration_seconds
        )
        visual, video = (
            load_visual(stored, VIDEO, ImageConfig()),
            load_visual(seen, VIDEO, ImageConfig()),
        )
        assert isinstance(visual, Features) and visual.tokens.dtype == torch.bfloat16
        assert torch.equal(visual.tokens, mean_colors(video.images).bfloat16())  # type: ignore[union-attr]
        assert torch.equal(visual.timestamps, video.timestamps)  # type: ignore[union-attr]


def test_max_frames_selects_the_same_frames_as_of_frame_shards(feature_shards: Path) -> None:
    shards = open_shards(feature_shards)
    stored = shards.read(shards.entries[-1])
    expected = load_features(stored, 6)
    for max_frames, chosen in [(6, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 5]), (1, [0])]:
        some = load_visual(stored, VideoConfig(max_frames=max_frames, min_frames=1), ImageConfig())
        assert isinstance(some, Features)
        assert torch.equal(some.tokens, expected.tokens[chosen]) and torch.equal(
            some.timestamps, expected.timestamps[chosen]
        )


def test_index_stores_the_feature_metadata(feature_shards: Path, frame_shards: Path) -> None:
    index = open_shards(feature_shards).indexes[0]
    assert (
        index.features == METADATA and index.config == open_shards(frame_shards).indexes[0].config
    )
    written, frames = (
        json.loads((folder / "000000.json").read_text())
        for folder in (feature_shards, frame_shards)
    )
    assert (
        written.keys() - frames.keys() == {"features"} and written["version"] == frames["version"]
    )
    totals, before = (
        json.loads((folder / "index.json").read_text()) for folder in (feature_shards, frame_shards)
    )
    assert {**totals, "num_bytes": before["num_bytes"]} == before
    assert set(shard_files(feature_shards)) == set(shard_files(frame_shards)) | {"features.json"}


def test_webdataset_and_safetensors_read_the_tars(feature_shards: Path) -> None:
    shards = open_shards(feature_shards)
    samples = list(
        WebDataset(str(feature_shards / "000001.tar"), shardshuffle=False, empty_check=False)
    )
    for sample, entry in zip(samples, shards.indexes[1].entries, strict=True):
        assert sample["__key__"] == entry.key and json.loads(sample["json"])["key"] == entry.key
        assert torch.equal(
            load(sample["safetensors"])["tokens"],
            load_features(shards.read(entry), 9).tokens,
        )
    with tarfile.open(feature_shards / "000001.tar") as tar:
        assert [member.name for member in tar] == [
            "c_1.safetensors",
            "c_1.json",
            "more/d_e.safetensors",
            "more/d_e.json",
        ]


def test_images_and_texts_are_copied_unchanged(mixed_shards: Path, tmp_path: Path) -> None:
    extract_all(tmp_path / "out", mixed_shards)
    frames, features = open_shards(mixed_shards), open_shards(tmp_path / "out")
    assert [entry.key for entry in features.entries] == MIXED_KEYS
    for one, other in zip(frames.entries, features.entries, strict=True):
        if one.modality != "video":
            assert features.read_raw(other) == frames.read_raw(one)


def test_int8_features_are_read_as_bf16(
    feature_shards: Path, frame_shards: Path, tmp_path: Path
) -> None:
    int8 = replace(METADATA, precision="int8")
    extract_all(tmp_path / "out", frame_shards, int8)
    exact, coarse = (open_shards(folder) for folder in (feature_shards, tmp_path / "out"))
    for one, other in zip(exact.entries, coarse.entries, strict=True):
        expected, tokens = (
            load_features(shards_of.read(entry), 9).tokens
            for shards_of, entry in ((exact, one), (coarse, other))
        )
        assert tokens.dtype == torch.bfloat16
        assert (
            (tokens.float() - expected.float()).abs()
            <= expected.float().abs().amax(-1, keepdim=True) / 100
        ).all()


# Corruption


@pytest.fixture
def spoiled_features(
    feature_shards: Path, tmp_path: Path
) -> Callable[[Callable[[bytes], bytes]], Path]:
    """Return a function that copies the feature shards and changes the bytes of the last tar."""

    def corrupt(change: Callable[[bytes], bytes]) -> Path:
        for name, content in shard_files(feature_shards).items():
            (tmp_path / name).write_bytes(change(content) if name == "000002.tar" else content)
        return tmp_path

    return corrupt


def read_last(folder: Path) -> None:
    shards = open_shards(folder)
    shards.read(shards.entries[-1])


def test_corrupt_token_is_rejected(
    spoiled_features: Callable[[Callable[[bytes], bytes]], Path],
) -> None:
    def flip(content: bytes) -> bytes:
        offset = content.index(b"more/f.json") - 200  # in the last tokens, or the padding behind
        start = content.rindex(b"}", 0, offset) + 20
        return content[:start] + bytes([content[start] ^ 64]) + content[start + 1 :]

    with pytest.raises(
        ShardError,
        match=r"000002\.tar: video 'more/f': more/f\.safetensors is corrupt: its CRC-32",
    ):
        read_last(spoiled_features(flip))


def test_missing_feature_member_is_rejected(
    spoiled_features: Callable[[Callable[[bytes], bytes]], Path],
) -> None:
    folder = spoiled_features(lambda content: b"\0" * 512 + content[512:])
    with pytest.raises(
        ShardError,
        match=r"video 'more/f': more/f\.safetensors is missing or has a corrupt header",
    ):
        read_last(folder)


def test_feature_tar_truncated_while_open_is_rejected(
    spoiled_features: Callable[[Callable[[bytes], bytes]], Path],
) -> None:
    folder = spoiled_features(bytes)
    shards = open_shards(folder)
    (folder / "000002.tar").write_bytes((folder / "000002.tar").read_bytes()[:600])
    with pytest.raises(ShardError, match=r"000002\.tar is truncated inside the video 'more/f'"):
        shards.read(shards.entries[-1])
    with pytest.raises(ShardError, match=r"000002\.tar has 600 bytes, but \d+ by its index"):
        open_shards(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b'"tokens_per_frame": 4',
            b'"tokens_per_frame": 5',
            r"has the header .*\. Its index implies",
        ),
        (b'"features": {', b'"features": { "x": 1,', "is not the index of a shard.*'x'"),
    ],
)
def test_index_that_does_not_match_the_features_is_rejected(
    feature_shards: Path, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    for name, content in shard_files(feature_shards).items():
        (tmp_path / name).write_bytes(content.replace(old, new))
    with pytest.raises(ShardError, match=message):
        read_last(tmp_path)
