"""Sources of frames for feature extraction: shards of frames, and video files."""

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
from lit_hour.data.datasets import load_frames
from lit_hour.data.features.source import (
    FeatureSource,
    FrameChunk,
    FrameChunkDataset,
    FrameShardSource,
    SampleRef,
    VideoFileSource,
)
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ConfigError, ImageError, ShardError
from lit_hour.media.video_reader import load_video
from tests.data.factories import MIXED_RECORDS, VIDEO, VIDEO_NAMES, write_records
from tests.helpers.http_server import serve

NO_SHARDS = Path("no shards yet")
CONFIG = Config(
    video=VIDEO,
    pack=PackConfig(videos_per_shard=2),
    model=ModelConfig(vision=VisionConfig(encode_batch_size=4)),
)


def images_of(source: FeatureSource, ref: SampleRef) -> tuple[Tensor, FrameChunk]:
    """Return all frames of a video, and its last chunk."""
    *chunks, end = source.chunks(ref)
    assert all(
        len(chunk.images) <= 4 and not chunk.metadata and chunk.num_frames == end.num_frames
        for chunk in chunks
    )
    assert len(end.images) == 0 and {chunk.ref for chunk in (*chunks, end)} == {ref}
    return torch.cat([chunk.images for chunk in chunks]), end  # (frames, 3, size, size)


def videos_of(source: FeatureSource) -> list[SampleRef]:
    return [
        SampleRef(shard, number)
        for shard in range(source.num_shards)
        for number in range(len(source.samples(shard)))
    ]


def test_frame_shard_source_yields_chunks_and_metadata(frame_shards: Path) -> None:
    source, shards = FrameShardSource(str(frame_shards), CONFIG), open_shards(frame_shards)
    for ref, entry in zip(videos_of(source), shards.entries, strict=True):
        images, end = images_of(source, ref)
        stored = shards.read(entry)
        assert torch.equal(images, load_frames(stored, 32, 100).images)
        content = shards.read_raw(entry)
        assert end.metadata in content and end.num_frames == source.cost(ref) == entry.num_frames
        assert source.samples(ref.shard)[ref.index] == ("video", entry.key)


def test_video_file_source_plans_as_packing_does_and_skips_jpeg(
    frame_shards: Path, tiny_videos: Path, tiny_questions: Path
) -> None:
    stored, files = (
        FrameShardSource(str(frame_shards), CONFIG),
        VideoFileSource(tiny_videos, tiny_questions, NO_SHARDS, CONFIG),
    )
    assert files.num_shards == stored.num_shards
    assert {"sampling": "seconds", **files.config, "jpeg_quality": 90} == stored.config
    for ref, name in zip(videos_of(stored), VIDEO_NAMES, strict=True):
        images, end = images_of(files, ref)
        jpegs, stored_end = images_of(stored, ref)
        assert torch.equal(images, load_video(tiny_videos / name, VIDEO)[0].images)
        assert (
            images.float() - jpegs.float()
        ).abs().mean() < 6  # JPEG; different frames differ by 40 or more
        assert (end.metadata, end.num_frames) == (stored_end.metadata, stored_end.num_frames)
        assert files.samples(ref.shard)[ref.index] == ("video", name)
        assert files.cost(ref) == (tiny_videos / name).stat().st_size


def test_frame_shard_source_reads_a_url(frame_shards: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, data=replace(CONFIG.data, cache_folder=str(tmp_path / "cache")))
    with serve(frame_shards) as server:
        source = FrameShardSource(server.url, config)
        images, end = images_of(source, SampleRef(2, 0))
    expected, expected_end = images_of(FrameShardSource(str(frame_shards), CONFIG), SampleRef(2, 0))
    assert torch.equal(images, expected) and end.metadata == expected_end.metadata


def test_copy_sample_copies_images_and_texts_unchanged(
    mixed_shards: Path, mixed_files: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, pack=replace(CONFIG.pack, videos_per_shard=3))
    questions = write_records(tmp_path / "questions.json", MIXED_RECORDS)
    shards = open_shards(mixed_shards)
    for source in (
        FrameShardSource(str(mixed_shards), config),
        VideoFileSource(mixed_files, questions, NO_SHARDS, config),
    ):
        for index, shard in zip(shards.indexes, range(source.num_shards), strict=True):
            for number, entry in enumerate(index.entries):
                if entry.modality != "video":
                    stream = io.BytesIO(b"before")
                    stream.seek(6)
                    copied = source.copy_sample(SampleRef(shard, number), stream)
                    assert copied == replace(entry, offset=6)
                    assert stream.getvalue()[6:] == shards.read_raw(entry)


def test_corrupt_video_ends_with_an_error_and_the_next_one_follows(
    corrupt_copy, tiny_videos: Path, tmp_path: Path
) -> None:
    folder = corrupt_copy(
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
            VideoFileSource(tmp_path, questions, NO_SHARDS, CONFIG),
            [SampleRef(0, 0), SampleRef(0, 1)],
        )
    )
    assert "a.mp4" in chunks[0].error and chunks[-1].metadata


@pytest.mark.filterwarnings("ignore::lit_hour.media.video_reader.DamagedVideoWarning")
def test_damaged_video_is_used_with_on_decode_error_truncate(
    real_videos: Path, tmp_path: Path
) -> None:
    video = replace(VIDEO, on_decode_error="truncate", fps=2, max_frames=10)
    questions = write_records(
        tmp_path / "q.json", [{"video": "corrupted.mp4", "question": "What?", "answer": "It."}]
    )
    images, end = images_of(
        VideoFileSource(real_videos, questions, NO_SHARDS, replace(CONFIG, video=video)),
        SampleRef(0, 0),
    )
    known = json.loads(end.metadata)
    assert (len(images), end.num_frames) == (10, 10)
    assert (
        known["timestamps_seconds"] == [index / 2 for index in range(10)]
        and known["duration_seconds"] == 5.0
    )


def test_copy_sample_rejects_a_corrupt_image(mixed_files: Path, tmp_path: Path) -> None:
    questions = write_records(
        tmp_path / "q.json", [{"image": "photo.jpg", "question": "What?", "answer": "It."}]
    )
    (tmp_path / "photo.jpg").write_bytes((mixed_files / "photo.jpg").read_bytes()[:200])
    with pytest.raises(ImageError, match=r"photo\.jpg"):
        VideoFileSource(tmp_path, questions, NO_SHARDS, CONFIG).copy_sample(
            SampleRef(0, 0), io.BytesIO()
        )


def test_frame_shards_of_other_settings_are_rejected(frame_shards: Path) -> None:
    with pytest.raises(ConfigError, match=r"was packed with video\.max_frames=6, this run has 5"):
        FrameShardSource(str(frame_shards), replace(CONFIG, video=replace(VIDEO, max_frames=5)))
    with pytest.raises(ShardError, match="contains no shards"):
        FrameShardSource(str(frame_shards / "none"), CONFIG)
