"""Shards of features as they are read: what they hold, and what damage is named."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from webdataset import WebDataset

from lit_hour.config.schema import ImageConfig, VideoConfig
from lit_hour.data.shards.decode import load_features, load_visual
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError
from lit_hour.types import Features
from tests.data.colours import ENCODING, contents, encode, tokens_of
from tests.data.mixed import KEYS
from tests.data.tiny import VIDEO


def test_features_stand_where_the_frames_stood(encoded: Path, packed: Path) -> None:
    frames, features = open_shards(packed), open_shards(encoded)
    assert features.samples_per_shard(2) == frames.samples_per_shard(2)
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
        assert torch.equal(visual.tokens, tokens_of(video.images).bfloat16())  # type: ignore[union-attr]
        assert torch.equal(visual.timestamps, video.timestamps)  # type: ignore[union-attr]


def test_of_many_frames_those_are_taken_that_are_taken_of_frames(encoded: Path) -> None:
    shards = open_shards(encoded)
    stored = shards.read(shards.entries[-1])
    whole = load_features(stored, 6)
    for max_frames, chosen in [(6, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 5]), (1, [0])]:
        some = load_visual(stored, VideoConfig(max_frames=max_frames, min_frames=1), ImageConfig())
        assert isinstance(some, Features)
        assert torch.equal(some.tokens, whole.tokens[chosen]) and torch.equal(
            some.timestamps, whole.timestamps[chosen]
        )


def test_the_index_says_what_the_features_are(encoded: Path, packed: Path) -> None:
    index = open_shards(encoded).indexes[0]
    assert index.features == ENCODING and index.config == open_shards(packed).indexes[0].config
    written, frames = (
        json.loads((folder / "000000.json").read_text()) for folder in (encoded, packed)
    )
    assert (
        written.keys() - frames.keys() == {"features"} and written["version"] == frames["version"]
    )
    totals, before = (
        json.loads((folder / "index.json").read_text()) for folder in (encoded, packed)
    )
    assert {**totals, "num_bytes": before["num_bytes"]} == before
    assert set(contents(encoded)) == set(contents(packed)) | {"features.json"}


def test_plain_tools_read_the_tars(encoded: Path) -> None:
    shards = open_shards(encoded)
    samples = list(WebDataset(str(encoded / "000001.tar"), shardshuffle=False, empty_check=False))
    for sample, record in zip(samples, shards.indexes[1].entries, strict=True):
        assert sample["__key__"] == record.key and json.loads(sample["json"])["key"] == record.key
        assert torch.equal(
            load(sample["safetensors"])["tokens"],
            load_features(shards.read(record), 9).tokens,
        )
    with tarfile.open(encoded / "000001.tar") as tar:
        assert [member.name for member in tar] == [
            "c_1.safetensors",
            "c_1.json",
            "more/d_e.safetensors",
            "more/d_e.json",
        ]


def test_pictures_and_texts_stay_as_they_are(mixed: Path, tmp_path: Path) -> None:
    encode(tmp_path / "out", mixed)
    frames, features = open_shards(mixed), open_shards(tmp_path / "out")
    assert [subject.key for subject in features.entries] == KEYS
    for one, other in zip(frames.entries, features.entries, strict=True):
        if one.modality != "video":
            assert features.read_raw(other) == frames.read_raw(one)


def test_int8_takes_half_the_room_and_comes_as_bf16(
    encoded: Path, packed: Path, tmp_path: Path
) -> None:
    int8 = replace(ENCODING, precision="int8")
    encode(tmp_path / "out", packed, int8)
    exact, coarse = (open_shards(folder) for folder in (encoded, tmp_path / "out"))
    for one, other in zip(exact.entries, coarse.entries, strict=True):
        expected, tokens = (
            load_features(each.read(record), 9).tokens
            for each, record in ((exact, one), (coarse, other))
        )
        assert tokens.dtype == torch.bfloat16
        assert (
            (tokens.float() - expected.float()).abs()
            <= expected.float().abs().amax(-1, keepdim=True) / 100
        ).all()


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
    shards.read(shards.entries[-1])


def test_a_damaged_token_is_named(
    spoiled_features: Callable[[Callable[[bytes], bytes]], Path],
) -> None:
    def flip(content: bytes) -> bytes:
        place = (
            content.index(b"more/f.json") - 200
        )  # in the last of the tokens, or the filling behind
        start = content.rindex(b"}", 0, place) + 20
        return content[:start] + bytes([content[start] ^ 64]) + content[start + 1 :]

    with pytest.raises(
        ShardError,
        match=r"000002\.tar: video 'more/f': more/f\.safetensors is corrupt: its CRC-32",
    ):
        read_last(spoiled_features(flip))


def test_a_member_that_is_missing_is_named(
    spoiled_features: Callable[[Callable[[bytes], bytes]], Path],
) -> None:
    folder = spoiled_features(lambda content: b"\0" * 512 + content[512:])
    with pytest.raises(
        ShardError,
        match=r"video 'more/f': more/f\.safetensors is missing or has a corrupt header",
    ):
        read_last(folder)


def test_a_tar_that_shrinks_is_named(
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
def test_an_index_that_does_not_fit_is_named(
    encoded: Path, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    for name, content in contents(encoded).items():
        (tmp_path / name).write_bytes(content.replace(old, new))
    with pytest.raises(ShardError, match=message):
        read_last(tmp_path)
