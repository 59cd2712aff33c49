"""Frames on their way to the vision encoder: from shards, or from the videos themselves."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_hour.config.model import ModelConfig, VisionConfig
from lit_hour.config.schema import Config, PackConfig
from lit_hour.data.features.source import (
    FeatureSource,
    FrameChunk,
    FrameChunkDataset,
    FrameShardSource,
    SampleRef,
    VideoFileSource,
)
from lit_hour.data.shards.decode import load_frames
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ConfigError, ImageError, ShardError
from lit_hour.media.frame_sampling import load_video
from tests.data.mixed import RECORDS, write_records
from tests.data.served import serve
from tests.data.tiny import NAMES, VIDEO

CONFIG = Config(
    video=VIDEO,
    pack=PackConfig(videos_per_shard=2),
    model=ModelConfig(vision=VisionConfig(encode_batch_size=4)),
)


def images_of(source: FeatureSource, place: SampleRef) -> tuple[Tensor, FrameChunk]:
    """All frames of a video, and its end."""
    *chunks, end = source.chunks(place)
    assert all(
        len(chunk.images) <= 4 and not chunk.metadata and chunk.num_frames == end.num_frames
        for chunk in chunks
    )
    assert len(end.images) == 0 and {chunk.ref for chunk in (*chunks, end)} == {place}
    return torch.cat([chunk.images for chunk in chunks]), end  # (frames, 3, size, size)


def videos_of(source: FeatureSource) -> list[SampleRef]:
    return [
        SampleRef(shard, number)
        for shard in range(source.num_shards)
        for number in range(len(source.samples(shard)))
    ]


def test_frames_of_shards_come_in_chunks_with_what_is_known_of_the_video(packed: Path) -> None:
    source, shards = FrameShardSource(str(packed), CONFIG), open_shards(packed)
    for place, record in zip(videos_of(source), shards.entries, strict=True):
        images, end = images_of(source, place)
        stored = shards.read(record)
        assert torch.equal(images, load_frames(stored, 32, 100).images)
        content = shards.read_raw(record)
        assert end.metadata in content and end.num_frames == source.cost(place) == record.num_frames
        assert source.samples(place.shard)[place.index] == ("video", record.key)


def test_videos_are_planned_as_packing_plans_them_and_never_become_jpegs(
    packed: Path, tiny_videos: Path, tiny_questions: Path
) -> None:
    stored, files = (
        FrameShardSource(str(packed), CONFIG),
        VideoFileSource(tiny_videos, tiny_questions, CONFIG),
    )
    assert files.num_shards == stored.num_shards
    assert {**files.config, "jpeg_quality": 90} == stored.config
    for place, name in zip(videos_of(stored), NAMES, strict=True):
        images, end = images_of(files, place)
        jpegs, stored_end = images_of(stored, place)
        assert torch.equal(images, load_video(tiny_videos / name, VIDEO)[0].images)
        assert (
            images.float() - jpegs.float()
        ).abs().mean() < 6  # JPEG; two frames differ by 40 and more
        assert (end.metadata, end.num_frames) == (stored_end.metadata, stored_end.num_frames)
        assert files.samples(place.shard)[place.index] == ("video", name)
        assert files.cost(place) == (tiny_videos / name).stat().st_size


def test_shards_behind_a_url_give_the_same(packed: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, cache_folder=str(tmp_path / "cache")))
    with serve(packed) as server:
        source = FrameShardSource(server.url, config)
        images, end = images_of(source, SampleRef(2, 0))
    expected, expected_end = images_of(FrameShardSource(str(packed), CONFIG), SampleRef(2, 0))
    assert torch.equal(images, expected) and end.metadata == expected_end.metadata


def test_pictures_and_texts_are_copied_as_they_are(
    mixed: Path, mixed_files: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, pack=replace(CONFIG.pack, videos_per_shard=3))
    questions = write_records(tmp_path / "questions.json", RECORDS)
    shards = open_shards(mixed)
    for source in (
        FrameShardSource(str(mixed), config),
        VideoFileSource(mixed_files, questions, config),
    ):
        for index, shard in zip(shards.indexes, range(source.num_shards), strict=True):
            for number, record in enumerate(index.entries):
                if record.modality != "video":
                    stream = io.BytesIO(b"before")
                    stream.seek(6)
                    copied = source.copy_sample(SampleRef(shard, number), stream)
                    assert copied == replace(record, offset=6)
                    assert stream.getvalue()[6:] == shards.read_raw(record)


def test_a_damaged_video_ends_with_its_damage_and_the_next_one_follows(
    spoiled, tiny_videos: Path, tmp_path: Path
) -> None:
    folder = spoiled(
        "000001.tar", lambda content: content.replace(b"c_1.000002.jpg", b"c_1.000009.jpg")
    )
    chunks = list(
        FrameChunkDataset(FrameShardSource(str(folder), CONFIG), [SampleRef(1, 0), SampleRef(1, 1)])
    )
    assert re.search(r"000001\.tar: video 'c_1': c_1\.000002\.jpg is missing", chunks[0].error)
    assert (
        not chunks[0].metadata
        and chunks[-1].metadata
        and not any(chunk.error for chunk in chunks[1:])
    )

    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(
            (tiny_videos / name).read_bytes()[: 1000 if name == "a.mp4" else None]
        )
    questions = write_records(
        tmp_path / "q.json",
        [{"video": name, "question": "?", "answer": "!"} for name in ("a.mp4", "b.mp4")],
    )
    chunks = list(
        FrameChunkDataset(
            VideoFileSource(tmp_path, questions, CONFIG), [SampleRef(0, 0), SampleRef(0, 1)]
        )
    )
    assert "a.mp4" in chunks[0].error and chunks[-1].metadata


@pytest.mark.filterwarnings("ignore::lit_hour.media.video_reader.DamagedVideoWarning")
def test_what_can_be_read_of_a_damaged_video_is_taken_when_asked(
    real_videos: Path, tmp_path: Path
) -> None:
    video = replace(VIDEO, on_decode_error="truncate", fps=2, max_frames=10)
    questions = write_records(
        tmp_path / "q.json", [{"video": "corrupted.mp4", "question": "What?", "answer": "It."}]
    )
    images, end = images_of(
        VideoFileSource(real_videos, questions, replace(CONFIG, video=video)), SampleRef(0, 0)
    )
    known = json.loads(end.metadata)
    assert (len(images), end.num_frames) == (6, 10)
    assert (
        known["timestamps_seconds"] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
        and known["duration_seconds"] == 3.0
    )


def test_a_picture_that_is_damaged_is_named(mixed_files: Path, tmp_path: Path) -> None:
    questions = write_records(
        tmp_path / "q.json", [{"image": "photo.jpg", "question": "What?", "answer": "It."}]
    )
    (tmp_path / "photo.jpg").write_bytes((mixed_files / "photo.jpg").read_bytes()[:200])
    with pytest.raises(ImageError, match=r"photo\.jpg"):
        VideoFileSource(tmp_path, questions, CONFIG).copy_sample(SampleRef(0, 0), io.BytesIO())


def test_frames_that_were_taken_by_other_settings_are_refused(packed: Path) -> None:
    with pytest.raises(ConfigError, match=r"was packed with video\.max_frames=6, this run has 5"):
        FrameShardSource(str(packed), replace(CONFIG, video=replace(VIDEO, max_frames=5)))
    with pytest.raises(ShardError, match="contains no shards"):
        FrameShardSource(str(packed / "none"), CONFIG)
