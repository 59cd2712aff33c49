"""Write shards to measure on: JPEG frames, and features in the format of `extract-features`."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lit_hour.config.load import load_config
from lit_hour.data.features.format import (
    FeatureMetadata,
    encode_tokens,
    feature_config,
    to_safetensors,
)
from lit_hour.data.packing.decode_worker import SampleSummary
from lit_hour.data.packing.shard_writer import END_OF_ARCHIVE, sample_json
from lit_hour.data.questions.record import SampleSpec
from lit_hour.data.shards.shard_index import (
    IndexEntry,
    ShardIndex,
    write_index,
    write_json,
)
from lit_hour.data.shards.tar import write_member
from lit_hour.types import Question

SIZE_PIXELS, FRAMES_PER_VIDEO, SUBJECTS_PER_SHARD = 384, 60, 16
FEATURE_FRAMES, FEATURES_PER_SHARD = 600, 4
SETTINGS = feature_config(load_config())  # default settings of video and vision encoder
ENCODING = FeatureMetadata("bf16", 64, 1152, SETTINGS, "")  # so400m's tokens of a frame
NUM_QUESTIONS = 5

Part = bytes | memoryview
Members = dict[str, list[Part]]


def write_frame_shards(folder: Path, megabytes: int) -> None:
    """Write shards of about so many megabytes: videos of 60 frames out of 50 pictures of noise."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(50):
        noise = random.integers(0, 256, (48, 48, 3), dtype=np.uint8)  # (48, 48, 3)
        stream = io.BytesIO()
        Image.fromarray(noise).resize((SIZE_PIXELS, SIZE_PIXELS)).save(stream, "jpeg", quality=90)
        pictures.append(stream.getvalue())
    num_bytes = SUBJECTS_PER_SHARD * FRAMES_PER_VIDEO * np.mean(list(map(len, pictures)))

    def members(number: int) -> Members:
        chosen = [
            pictures[(number * 7 + frame) % len(pictures)] for frame in range(FRAMES_PER_VIDEO)
        ]
        return {f"{frame:06d}.jpg": [picture] for frame, picture in enumerate(chosen)}

    folder.mkdir()
    num_shards = max(1, round(megabytes * 1e6 / num_bytes))
    for shard in range(num_shards):
        subjects = {
            number: members(number)
            for number in range(shard * SUBJECTS_PER_SHARD, (shard + 1) * SUBJECTS_PER_SHARD)
        }
        _write_shard(folder, shard, subjects, FRAMES_PER_VIDEO, None)
    write_json(folder / "index.json", {"num_shards": num_shards})


def write_feature_shards(folder: Path, megabytes: int) -> None:
    """Write shards of about so many megabytes: videos of ten minutes as bf16 noise."""
    shape = FEATURE_FRAMES, ENCODING.tokens_per_frame, ENCODING.vision_dim
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(shape, generator=generator)  # (frames, tokens, vision_dim)
    parts = to_safetensors(encode_tokens(tokens, "bf16"), ENCODING)
    num_shards = max(1, round(megabytes * 1e6 / FEATURES_PER_SHARD / sum(map(len, parts))))
    folder.mkdir()
    for shard in range(num_shards):
        numbers = range(shard * FEATURES_PER_SHARD, (shard + 1) * FEATURES_PER_SHARD)
        _write_shard(
            folder,
            shard,
            {number: {"safetensors": parts} for number in numbers},
            FEATURE_FRAMES,
            ENCODING,
        )
    write_json(folder / "index.json", {"num_shards": num_shards})


def drop_page_cache(folder: Path) -> None:
    """Drop the files of a folder from the page cache, so that the disk is read."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def metadata(key: str, num_frames: int) -> bytes:
    """Return the content of `KEY.json`."""
    questions = tuple(
        Question(f"{key}/{number}", "", "open_ended", "What is on the stove? " * 4, "A pan.")
        for number in range(NUM_QUESTIONS)
    )
    sample = SampleSpec("video", (f"{key}.mp4",), 0, questions)
    timestamps = tuple(float(second) for second in range(num_frames))
    return sample_json(sample, SampleSummary(float(num_frames), timestamps))


def _write_shard(
    folder: Path,
    shard: int,
    videos: dict[int, Members],
    num_frames: int,
    encoding: FeatureMetadata | None,
) -> None:
    subjects, path = [], folder / f"{shard:06d}.tar"
    with path.open("wb") as stream:
        for number, members in videos.items():
            key, offset = f"video_{number:06d}", stream.tell()
            for suffix, parts in members.items():
                write_member(stream, f"{key}.{suffix}", parts)
            write_member(stream, f"{key}.json", [metadata(key, num_frames)])
            location = offset, stream.tell() - offset
            subjects.append(
                IndexEntry(
                    path.name, key, "video", *location, float(num_frames), num_frames, NUM_QUESTIONS
                )
            )
        stream.write(END_OF_ARCHIVE)
        num_bytes = stream.tell()
    settings = {
        name.removeprefix("video."): value
        for name, value in SETTINGS.items()
        if name.startswith("video.")
    }
    index = ShardIndex(path.name, num_bytes, "", settings, "", tuple(subjects), (), encoding)
    write_index(path.with_suffix(".json"), index)
