import io
import json
import pickle
import re
import tarfile
from pathlib import Path

import pytest
import torch
import webdataset

from lit_hour.data.datasets import load_frames
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError
from lit_hour.media.transforms import decode_jpeg
from lit_hour.media.video_reader import load_video
from tests.data.factories import VIDEO, VIDEO_NAMES


def test_read_returns_questions_and_frames_of_every_video(frame_shards, tiny_videos):
    shards = pickle.loads(pickle.dumps(open_shards(frame_shards)))
    assert [video.key for video in shards.entries] == ["a", "b", "c_1", "more/d_e", "more/f"]
    for number, (record, name) in enumerate(zip(shards.entries, VIDEO_NAMES, strict=True)):
        stored = shards.read(record)
        frames = load_frames(stored, 32, max_frames=100)
        expected, duration_seconds = load_video(tiny_videos / name, VIDEO)
        assert ", ".join(stored.files) == name
        assert stored.duration_seconds == duration_seconds
        assert [question.question for question in stored.questions] == [
            f"What is {n}?" for n in range(number + 1)
        ]
        assert stored.questions[-1].evidence == ((0.0, number + 1.0),)
        assert torch.equal(frames.timestamps, expected.timestamps)
        assert (
            frames.images.float() - expected.images.float()
        ).abs().mean() < 6  # JPEG; different frames differ by 40 or more


def test_webdataset_reads_the_same_frames(frame_shards):
    shards = open_shards(frame_shards)
    samples = [
        sample
        for index in shards.indexes
        for sample in webdataset.WebDataset(
            str(frame_shards / index.shard), shardshuffle=False, empty_check=False
        )
    ]
    assert [sample["__key__"] for sample in samples] == [video.key for video in shards.entries]
    for sample, record in zip(samples, shards.entries, strict=True):
        frames = load_frames(shards.read(record), 32, max_frames=100)
        members = sorted(name for name in sample if name.endswith(".jpg"))
        assert members == [f"{frame:06d}.jpg" for frame in range(record.num_frames)]
        images = torch.stack([decode_jpeg(sample[name], 32, name) for name in members])
        assert torch.equal(images, frames.images)
        assert json.loads(sample["json"])["key"] == record.key


def test_max_frames_decodes_evenly_spaced_frames_only(frame_shards):
    shards = open_shards(frame_shards)
    stored = shards.read(shards.entries[-1])
    expected = load_frames(stored, 32, max_frames=6)
    assert len(expected) == 6
    for max_frames, indices in [(6, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 5]), (2, [0, 5]), (1, [0])]:
        frames = load_frames(stored, 32, max_frames)
        assert torch.equal(frames.timestamps, expected.timestamps[indices])
        assert torch.equal(frames.images, expected.images[indices])


def test_unfinished_folder_is_rejected(tmp_path, frame_shards, corrupt_copy):
    with pytest.raises(
        ShardError, match=f"{re.escape(str(tmp_path))} contains no shards.*lit-hour pack"
    ):
        open_shards(tmp_path)
    folder = corrupt_copy("index.json", lambda content: content)
    (folder / "000001.json").unlink()
    with pytest.raises(ShardError, match=r"has 2 shards, but .*index\.json counts 3"):
        open_shards(folder)
    (folder / "index.json").unlink()
    with pytest.raises(ShardError, match="is unfinished"):
        open_shards(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1] + b"", "is not valid JSON"),
        (
            lambda content: content.replace(b'"version": 3', b'"version": 7'),
            "has format version 7. This program reads version 3. Delete .*corrupt_copy and make it "
            "anew: frames with `lit-hour pack",
        ),
        (lambda content: b"[]", "has format version None"),
        (
            lambda content: content.replace(b'"offset"', b'"start"'),
            "is not the index of a shard.*start",
        ),
        (
            lambda content: content.replace(b'"offset": 0', b'"offset": -9'),
            "places 'c_1' outside the",
        ),
        (
            lambda content: content.replace(b"000001.tar", b"/etc/x.tar"),
            "is the index of '/etc/x.tar'",
        ),
    ],
)
def test_corrupt_index_is_rejected(corrupt_copy, change, message):
    folder = corrupt_copy("000001.json", lambda content: change(content.rstrip()))
    with pytest.raises(ShardError, match=rf"000001\.json.*{message}"):
        open_shards(folder)


def test_truncated_or_missing_tar_is_rejected(corrupt_copy):
    folder = corrupt_copy("000002.tar", lambda content: content[:-3000])
    with pytest.raises(ShardError, match=r"000002\.tar has \d+ bytes, but \d+ by its index"):
        open_shards(folder)
    (folder / "000002.tar").unlink()
    with pytest.raises(ShardError, match=r"000002\.tar is missing"):
        open_shards(folder)


def test_tar_truncated_while_open_is_rejected(corrupt_copy):
    folder = corrupt_copy("000002.tar", lambda content: content)
    shards = open_shards(folder)
    (folder / "000002.tar").write_bytes((folder / "000002.tar").read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"000002\.tar is truncated inside the video 'more/f'"):
        shards.read(shards.entries[-1])


def rewritten(content: bytes, drop: str = "", replace: dict[str, bytes] | None = None) -> bytes:
    """Return a tar of the same size without some members, or with other content in some."""
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as old,
        tarfile.open(fileobj=buffer, mode="w") as new,
    ):
        for member in old:
            if member.name != drop:
                data = (replace or {}).get(member.name, old.extractfile(member).read())
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    return buffer.getvalue()[: len(content)].ljust(len(content), b"\0")


def read_last_subject(folder: Path):
    shards = open_shards(folder)
    return shards.read(shards.entries[-1])


@pytest.mark.parametrize("member", ["more/f.000000.jpg", "more/f.000003.jpg", "more/f.json"])
def test_missing_member_is_rejected(corrupt_copy, member):
    folder = corrupt_copy("000002.tar", lambda content: rewritten(content, drop=member))
    with pytest.raises(ShardError, match=rf"000002\.tar: video 'more/f': {member} is missing"):
        read_last_subject(folder)


def test_extra_member_is_rejected(corrupt_copy):
    folder = corrupt_copy(
        "000002.json", lambda content: content.replace(b'"num_frames": 6', b'"num_frames": 5')
    )
    with pytest.raises(ShardError, match=r"more/f\.json is missing .* Found more/f\.000005\.jpg"):
        read_last_subject(folder)


@pytest.mark.parametrize("frame", [0, 3])
def test_corrupt_tar_header_is_rejected(corrupt_copy, frame):
    def damage(content):
        start = content.index(b"more/f.%06d.jpg" % frame)
        return content[:start] + b"\xff" * 300 + content[start + 300 :]

    with pytest.raises(ShardError, match=r"000002\.tar: video 'more/f': .*corrupt header"):
        read_last_subject(corrupt_copy("000002.tar", damage))


def test_undecodable_jpeg_is_rejected_if_it_is_used(corrupt_copy):
    garbage = {"more/f.000002.jpg": b"no image at all"}
    folder = corrupt_copy("000002.tar", lambda content: rewritten(content, replace=garbage))
    record = json.loads((folder / "000002.json").read_text())
    record["entries"][0]["num_bytes"] = record[
        "num_bytes"
    ]  # the members behind the garbage have moved
    (folder / "000002.json").write_text(json.dumps(record))
    stored = read_last_subject(folder)
    assert len(load_frames(stored, 32, max_frames=2)) == 2  # without the bad frame
    with pytest.raises(
        ShardError, match=r"000002\.tar: video 'more/f': more/f\.000002\.jpg cannot be decoded"
    ):
        load_frames(stored, 32, max_frames=6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'{"version"', b'["version"', "is corrupt"),
        (b'"version": 3', b'"version": 2', "has format version 2"),
        (b'"duration_seconds"', b'"duration_minutes"', "is corrupt.*duration_seconds"),
        (b'"answer": "blue"', b'"answer": "pink"', "'pink' is not among the options"),
        (b'"key": "more/f"', b'"key": "more/g"', "does not match the index"),
        (b"[[0.0, 1.0]]}, {", b"[[0.0, 1.0]]}]}#", "is corrupt"),
    ],
)
def test_corrupt_metadata_is_rejected(corrupt_copy, old, new, message):
    def change(content):
        assert old in content
        return content.replace(old, new.ljust(len(old)), 1)

    with pytest.raises(ShardError, match=rf"000002\.tar: video 'more/f': more/f\.json.*{message}"):
        read_last_subject(corrupt_copy("000002.tar", change))
