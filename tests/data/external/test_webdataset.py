"""Tars that others wrote are read as they are: samples, questions, frames, order and damage."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from lit_hour.cli.main import main
from lit_hour.data.datasets import load_timed_visual, load_visual
from lit_hour.data.external import tar_index
from lit_hour.data.shards.reader import open_shards
from lit_hour.data.sources import data_fingerprint, diff_fingerprints, open_sources
from lit_hour.data.training_samples import sample_costs, samples_per_shard
from lit_hour.errors import ConfigError, ShardError
from lit_hour.media.video_reader import load_video
from tests.data.external.tars import (
    image_bytes,
    open_tars,
    tar_config,
    write_shards,
    write_tar,
)
from tests.data.factories import VIDEO_NAMES, write_video
from tests.helpers.http_server import serve

QUESTION = {"question": "What moves?", "answer": "A gradient."}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of three seconds."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_video(path, num_seconds=3)
    return path.read_bytes()


@pytest.fixture(scope="module")
def same_tars(
    tiny_videos: Path, frame_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The samples of `frame_shards` as videos with JSON, by webdataset's writer."""
    packed = open_shards(frame_shards)
    samples = []
    for entry in packed.entries:
        stored = packed.read(entry)
        questions = [
            {"question": one.question, "answer": one.answer, "options": list(one.options)}
            for one in stored.questions
        ]
        content = (tiny_videos / stored.files[0]).read_bytes()
        samples.append((stored.key, content, {"questions": questions}))
    return write_shards(tmp_path_factory.mktemp("tars"), samples, 2)


def texts(shards: Any, entry: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.question, one.answer, one.options) for one in shards.read(entry).questions]


def test_tars_of_shard_writer_have_order_costs_and_questions_of_packed_shards(
    same_tars: str, frame_shards: Path
) -> None:
    config = tar_config(same_tars)
    tars, packed = open_sources(config)["x"], open_shards(frame_shards)
    assert samples_per_shard(tars, config) == samples_per_shard(packed, config)
    costs = [[cost.tolist() for cost in sample_costs(source, config)] for source in (tars, packed)]
    assert costs[0] == costs[1]
    for one, other in zip(tars.entries, packed.entries, strict=True):
        assert (one.key, one.num_frames, one.text_bytes) == (
            other.key,
            other.num_frames,
            other.text_bytes,
        )
        assert texts(tars, one) == texts(packed, other)


def test_frames_and_durations_equal_those_of_the_video_file(
    same_tars: str, tiny_videos: Path
) -> None:
    for sampling in ("seconds", "published"):
        config = tar_config(same_tars, f"video.sampling={sampling}", "video.max_frames=5")
        shards = open_tars(same_tars, f"video.sampling={sampling}", "video.max_frames=5")
        for name, entry in zip(VIDEO_NAMES, shards.entries, strict=True):
            stored = shards.read(entry)
            frames, seconds = load_timed_visual(stored, config.video, config.image)
            expected, expected_seconds = load_video(tiny_videos / name, config.video)
            torch.testing.assert_close(frames.images, expected.images, rtol=0, atol=0)
            torch.testing.assert_close(frames.timestamps, expected.timestamps, rtol=0, atol=0)
            assert len(frames) == entry.num_frames
            assert seconds == expected_seconds == stored.duration_seconds


def test_layout_of_video2dataset_is_captions(tmp_path: Path, video: bytes) -> None:
    record = {"key": "000000000", "caption": "A counter.", "status": "success"}
    for shard in range(2):
        key = f"0000{shard}0000"
        members = {f"{key}.mp4": video, f"{key}.txt": "A counter.", f"{key}.json": record}
        write_tar(tmp_path / f"{shard:05d}.tar", members)
    (tmp_path / "00000_stats.json").write_text("{}")
    shards = open_tars(tmp_path / "{00000..00001}.tar")
    assert [entry.key for entry in shards.entries] == ["000000000", "000010000"]
    for entry in shards.entries:
        assert texts(shards, entry) == [("Describe what is shown.", "A counter.", ())]


def test_mapping_names_the_fields(tmp_path: Path, video: bytes) -> None:
    record = {"meta": {"q": "Which?", "a": "B", "choices": ["red", "blue"]}}
    turns = [{"from": "human", "value": "<video>\nWho?"}, {"from": "gpt", "value": "Me."}]
    members = {
        "a.webm": video, "a.json": record,
        "b.mp4": video, "b.json": {"chat": turns},
        "c.mp4": video, "c.json": [record, record],
    }  # fmt: skip
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "question: meta.q\nanswer: meta.a\noptions: meta.choices\nconversations: chat\n"
    )
    shards = open_tars(write_tar(tmp_path / "a.tar", members), mapping=mapping)
    choice = ("Which?", "blue", ("red", "blue"))
    found = [texts(shards, entry) for entry in shards.entries]
    assert found == [[choice], [("\nWho?", "Me.", ())], [choice, choice]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("qestion: a", "unknown key 'qestion'"),
        ("images: both", "images=both must be frames or separate"),
        ("frames_per_second: 0", "must be above 0"),
        ("question: [a]", "question must be one value"),
        ("- a", "must be a mapping"),
    ],
)
def test_wrong_mapping_is_named(tmp_path: Path, content: str, message: str) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(content)
    with pytest.raises(ConfigError, match=message):
        open_tars(write_tar(tmp_path / "a.tar", {}), mapping=mapping)


def test_image_sequences_are_videos_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    colors = [(20 * number, 0, 0) for number in range(12)]
    members: dict[str, Any] = {
        f"deep/er/a.{number}.png": image_bytes(color) for number, color in enumerate(colors)
    }
    members["deep/er/a.json"] = QUESTION
    shards = open_tars(write_tar(tmp_path / "a.tar", members), "video.max_frames=100")
    (entry,) = shards.entries
    assert (entry.key, entry.duration_seconds, entry.num_frames) == ("deep/er/a", 12.0, 12)
    config = tar_config("x.tar", "video.max_frames=100")
    frames = load_visual(shards.read(entry), config.video, config.image)
    assert frames.images[:, 0, 0, 0].tolist() == [color[0] for color in colors]
    half = tar_config("x.tar", "video.fps=0.5", "video.min_frames=1")
    shards = open_tars(tmp_path / "a.tar", "video.fps=0.5", "video.min_frames=1")
    frames = load_visual(shards.read(shards.entries[0]), half.video, half.image)
    assert frames.images[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]


def test_published_sampling_takes_frames_of_a_sequence_by_their_numbers(tmp_path: Path) -> None:
    times = [number / 2 for number in range(12)]  # 2 frames per second
    members = {f"a.{number}.png": image_bytes((20 * number, 0, 0)) for number in range(12)}
    record = {"question": "?", "answer": "!", "timestamps_seconds": times}
    tar = write_tar(tmp_path / "a.tar", {**members, "a.json": record})
    for overrides, numbers in (
        (["video.min_frames=1", "video.max_frames=40"], [0, 2, 4, 6, 8, 10]),
        (["video.min_frames=8", "video.max_frames=40"], [0, 1, 3, 4, 6, 7, 9, 11]),
        (["video.min_frames=1", "video.max_frames=3"], [0, 5, 11]),
    ):
        shards = open_tars(tar, "video.sampling=published", *overrides)
        (entry,) = shards.entries
        stored = shards.read(entry)
        assert [int(name.split(".")[1]) for name, _ in stored.images] == numbers
        assert stored.timestamps_seconds == tuple(times[number] for number in numbers)
        assert entry.num_frames == len(numbers) and stored.duration_seconds == 6.0


def test_our_own_tars_are_read_like_others(frame_shards: Path, tmp_path: Path) -> None:
    folder = f"data.sources.x.index_folder={tmp_path}"
    packed, shards = open_shards(frame_shards), open_tars(frame_shards / "*.tar", folder)
    config = tar_config("x.tar")
    for one, other in zip(shards.entries, packed.entries, strict=True):
        assert texts(shards, one) == texts(packed, other)
        stored, expected = shards.read(one), packed.read(other)
        assert one.num_frames == other.num_frames
        assert stored.images == expected.images
        assert len(load_visual(stored, config.video, config.image)) == one.num_frames


def test_images_and_texts_are_read(tmp_path: Path) -> None:
    red, blue = image_bytes((255, 0, 0), "JPEG", 30), image_bytes((0, 0, 255))
    members = {
        "a.jpg": red, "a.txt": "It is red.",
        "b.0.jpg": red, "b.1.png": blue, "b.json": {**QUESTION, "question": "<image> or <image>?"},
        "c.json": QUESTION,
    }  # fmt: skip
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("images: separate")
    shards = open_tars(write_tar(tmp_path / "a.tar", members), mapping=mapping)
    assert [entry.modality for entry in shards.entries] == ["image", "images", "text"]
    assert shards.entries[0].size_pixels == (30, 30)
    config = tar_config("x.tar")
    visuals = [
        load_visual(shards.read(entry), config.video, config.image) for entry in shards.entries
    ]
    assert [type(visual).__name__ for visual in visuals] == ["TiledImage", "ImageSet", "NoneType"]


def test_compressed_members_are_read(tmp_path: Path, video: bytes) -> None:
    members = {"a.mp4": video, "a.json.gz": gzip.compress(json.dumps(QUESTION).encode())}
    shards = open_tars(write_tar(tmp_path / "a.tar", members))
    assert texts(shards, shards.entries[0]) == [("What moves?", "A gradient.", ())]


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled_and_no_path_leaves_a_tar(tmp_path: Path, video: bytes) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    members: dict[str, Any] = {"a.mp4": video, "a.json": QUESTION}
    members |= {f"a.{suffix}": bomb for suffix in ("pkl", "pyd", "pickle", "pth", "pkl.gz", "npy")}
    for key in ("../b", "/tmp/c", "d/../../e"):
        members |= {f"{key}.mp4": video, f"{key}.json": QUESTION}
    tar = write_tar(tmp_path / "in/a.tar", members)
    with tarfile.open(tar, "a") as archive:
        link = tarfile.TarInfo("f.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ShardError, match=r"3 samples cannot be used.*leads out of its folder"):
        open_tars(tar)
    shards = open_tars(tar, "pack.max_bad_samples=3")
    assert [entry.key for entry in shards.entries] == ["a"]
    assert shards.read(shards.entries[0]).video.content == video
    assert not (tmp_path / "exploded").exists()
    assert sorted(path.suffix for path in (tmp_path / "in").iterdir()) == ["", ".json", ".tar"]


def test_damaged_samples_are_listed_within_the_budget(tmp_path: Path, video: bytes) -> None:
    members = {
        "a.mp4": video, "a.json": QUESTION,
        "b.mp4": b"no video", "b.json": QUESTION,
        "c.mp4": video, "c.json": "{broken",
        "d.mp4": video, "d.json": {"caption": None},
        "e.left.mp4": video, "e.right.mp4": video, "e.json": QUESTION,
    }  # fmt: skip
    tar = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ShardError, match="4 samples cannot be used") as error:
        open_tars(tar)
    for reason in ("b.mp4", "member json is corrupt", "none of the fields", "has 2 videos"):
        assert reason in str(error.value), reason
    shards = open_tars(tar, "pack.max_bad_samples=4")
    assert [entry.key for entry in shards.entries] == ["a"]
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("video: left.mp4")
    shards = open_tars(tar, "pack.max_bad_samples=3", mapping=mapping)
    assert [entry.key for entry in shards.entries] == ["a", "e"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"a\.tar is empty"),
        (b"<html>not here</html>" * 100, r"a\.tar is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"a\.tar is a Git LFS pointer"),
        (b"x" * 2000, r"a\.tar is not a tar"),
        (bytes(10240), r"no sample can be used"),  # an archive without members
    ],
)
def test_what_is_no_tar_is_an_error(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ShardError, match=reason):
        open_tars(tmp_path / "a.tar")


def test_tar_that_is_cut_short_is_an_error(tmp_path: Path, video: bytes) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.mp4": video, "a.json": QUESTION, "b.mp4": video})
    os.truncate(tar, tar.stat().st_size // 2)
    with pytest.raises(ShardError, match="is cut short"):
        open_tars(tar)


def test_tar_that_changes_after_its_index_is_noticed(tmp_path: Path, video: bytes) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.mp4": video, "a.json": QUESTION})
    shards = open_tars(tar)
    write_tar(tar, {"b.mp4": video, "b.json": QUESTION})
    with pytest.raises(ShardError, match="its bytes hold 'b'"):
        shards.read(shards.entries[0])
    assert [entry.key for entry in open_tars(tar).entries] == ["b"]  # indexed anew


def test_index_is_found_again_and_survives_a_copy(
    tmp_path: Path, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_tar(tmp_path / "one/a.tar", {"a.mp4": video, "a.json": QUESTION})
    before = open_tars(first)
    (tmp_path / "one").rename(tmp_path / "two")
    os.utime(tmp_path / "two/a.tar", (1, 1))
    monkeypatch.setattr(tar_index, "index_tar", None)  # nothing may be indexed again
    after = open_tars(tmp_path / "two/a.tar")
    config = tar_config(first)
    fingerprints = [data_fingerprint(config, {"x": shards}) for shards in (before, after)]
    assert diff_fingerprints(*fingerprints) == []


def test_other_settings_or_mapping_change_the_fingerprint(tmp_path: Path, video: bytes) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.mp4": video, "a.json": {**QUESTION, "answer2": "No."}})
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("answer: answer2")
    config = tar_config(tar)
    before = data_fingerprint(config, {"x": open_tars(tar)})
    for shards in (open_tars(tar, mapping=mapping), open_tars(tar, "video.fps=2")):
        (change,) = diff_fingerprints(before, data_fingerprint(config, {"x": shards}))
        assert "1 shard is changed (a.tar)" in change


def test_index_command_writes_where_it_is_told(
    tmp_path: Path, video: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x/a.tar", "y/a.tar"):
        write_tar(tmp_path / name, {"a.mp4": video, "a.json": QUESTION})
    main(["index", f"{tmp_path}/*/a.tar", "--out", str(tmp_path / "indexes")])
    printed = capsys.readouterr().out
    assert "2 shards with 2 videos" in printed
    shards = f"'data.sources.NAME.shards={tmp_path}/*/a.tar'"  # quoted for the shell
    index_folder = f"data.sources.NAME.index_folder={tmp_path}/indexes"
    assert f"train.py -c FILE.yaml {shards} {index_folder}\n" in printed
    assert len(list((tmp_path / "indexes").glob("*.json"))) == 2
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a.tar"]


def open_twice(pattern: str, tmp_path: Path, *more: str) -> list[Any]:
    """Open tars through a cache, again from the recorded indexes, and read all samples."""
    shards = [open_tars(pattern, f"data.cache_folder={tmp_path}/cache", *more) for _ in range(2)]
    assert shards[0].indexes == shards[1].indexes
    stored = [shards[1].read(entry) for entry in shards[1].entries]
    return [(one.key, one.video.content, one.questions) for one in stored]


def test_compressed_tars_and_tars_behind_a_url_equal_local_ones(
    tmp_path: Path, video: bytes
) -> None:
    for name in ("one/00000", "two/00001"):
        key = f"k{name[-1]}"
        members = {"a.mp4": video, f"{key}.mp4": video, f"{key}.json": QUESTION}
        write_tar(tmp_path / f"in/{name}.tar", members)
        plain = (tmp_path / f"in/{name}.tar").read_bytes()
        (tmp_path / f"in/{name}.tar.gz").write_bytes(gzip.compress(plain))
    left_out = "pack.max_bad_samples=2"
    expected = open_twice(f"{tmp_path}/in/*/*.tar", tmp_path, left_out)
    assert [key for key, _, _ in expected] == ["k0", "k1"]
    assert open_twice(f"{tmp_path}/in/*/*.tar.gz", tmp_path, left_out) == expected
    with serve(tmp_path / "in") as server:
        for suffix in (".tar", ".tar.gz"):
            urls = "::".join(f"{server.url}/{name}{suffix}" for name in ("one/00000", "two/00001"))
            assert open_twice(urls, tmp_path, left_out) == expected
    files = fsspec.filesystem("memory")
    files.pipe("/set/00000.tar", (tmp_path / "in/one/00000.tar").read_bytes())
    assert open_twice("memory://set/{00000..00000}.tar", tmp_path, left_out) == expected[:1]
    assert open_twice("memory://set/*.tar", tmp_path, left_out) == expected[:1]


def test_tar_behind_a_url_that_changes_is_noticed(tmp_path: Path, video: bytes) -> None:
    tar = write_tar(tmp_path / "in/a.tar", {"a.mp4": video, "a.json": QUESTION})
    caches = [f"data.cache_folder={tmp_path}/{name}" for name in ("cache", "other")]
    folder = f"data.sources.x.index_folder={tmp_path}/indexes"
    with serve(tmp_path / "in") as server:
        open_tars(f"{server.url}/a.tar", caches[0], folder)
        tar.write_bytes(tar.read_bytes().replace(b"What moves?", b"What stays?"))
        shards = open_tars(f"{server.url}/a.tar", caches[1], folder)
        with pytest.raises(ShardError, match=r"a\.tar does not have the SHA-256 of its index"):
            shards.read(shards.entries[0])


def test_missing_tars_are_named(tmp_path: Path, video: bytes) -> None:
    write_tar(tmp_path / "00000.tar", {"a.mp4": video, "a.json": QUESTION})
    with pytest.raises(ShardError, match=r"names 2 tars, and 1 of them do not exist.*00001"):
        open_tars(tmp_path / "{00000..00001}.tar")
    with pytest.raises(ShardError, match="names 0 tars"):
        open_tars(tmp_path / "*.missing.tar")
