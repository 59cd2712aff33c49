"""Damaged and absurd tars are named for what they are, and cost one sample at most."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from lit_hour.data.external import sample_members
from lit_hour.data.external.tar_files import names_tars
from lit_hour.errors import ShardError
from lit_hour.io.urls import is_gzip
from tests.data.external.tars import image_bytes, open_tars, write_tar

ANSWER = {"question": "What?", "answer": "That."}
FRAMES = {"a.0.png": image_bytes((0, 0, 0)), "a.1.png": image_bytes((9, 9, 9))}
GOOD = {"good.png": image_bytes((0, 0, 0)), "good.json": ANSWER}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"tar is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "tar is a Git LFS pointer"),
        (None, "tar is not a tar, or is cut short"),
    ],
)
def test_file_that_is_no_tar_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = write_tar(tmp_path / "x.tar", GOOD)
    path.write_bytes(path.read_bytes()[:600] if content is None else content)
    with pytest.raises(ShardError, match=message) as caught:
        open_tars(path)
    assert "same name" not in str(caught.value)


@pytest.mark.parametrize("times", ["[0, NaN]", "[0, Infinity]", f"[0, {'9' * 400}]", "[0, 1e300]"])
def test_frame_times_that_are_no_times_cost_their_sample(tmp_path: Path, times: str) -> None:
    text = f'{{"question": "What?", "answer": "That.", "timestamps_seconds": {times}}}'
    tar = write_tar(tmp_path / "x.tar", {**FRAMES, "a.json": text, **GOOD})
    shards = open_tars(tar, "pack.max_bad_samples=1")
    assert [entry.key for entry in shards.entries] == ["good"]
    assert "must be a list of 2 rising times" in shards.indexes[0].skipped[0].reason


def test_absurdly_slow_sequence_has_as_many_frames_as_are_allowed(tmp_path: Path) -> None:
    tar, mapping = write_tar(tmp_path / "x.tar", {**FRAMES, "a.json": ANSWER}), tmp_path / "m.yaml"
    mapping.write_text("frames_per_second: 1e-300")
    shards = open_tars(tar, mapping=mapping)
    (entry,) = shards.entries
    assert entry.num_frames == len(shards.read(entry).images) == 6  # video.max_frames


def test_text_that_decompresses_to_too_much_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_members, "MAX_TEXT_BYTES", 100)
    bomb = gzip.compress(b" " * 10**6)
    small = gzip.compress(b'{"question": "What?", "answer": "That."}')
    members: dict[str, Any] = {"a.png": GOOD["good.png"], "a.json.gz": bomb}
    members |= {"b.png": GOOD["good.png"], "b.json.gz": small}
    shards = open_tars(write_tar(tmp_path / "x.tar", members), "pack.max_bad_samples=1")
    assert [entry.key for entry in shards.entries] == ["b"]
    assert "json.gz is larger than 100 bytes" in shards.indexes[0].skipped[0].reason
    assert len(sample_members._decompress(bomb)) == 101


def test_reasons_are_named_if_no_sample_is_left(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.png": b"no image", "a.json": ANSWER})
    with pytest.raises(ShardError, match=r"no sample can be used \(x\.tar: a: a\.png"):
        open_tars(tar, "pack.max_bad_samples=1")


def test_patterns_and_names_with_their_characters_name_tars(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "part[1].tar", GOOD)
    for pattern in (path, tmp_path / "part?1?.tar", tmp_path / "part*.tar"):
        assert names_tars(str(pattern))
        assert [entry.key for entry in open_tars(pattern).entries] == ["good"]
    assert names_tars("https://host/a.tar?token=b") and not names_tars("https://host/a?b=c.tar")


def test_query_of_a_signed_url_hides_no_compression() -> None:
    for location in ("a.tar.gz", "a.tgz", "https://host/a.tar.gz?token=b", "s3://bucket/a.tgz"):
        assert is_gzip(location), location
    for location in ("a.tar", "https://host/a.tar?name=b.gz"):
        assert not is_gzip(location), location
