"""Fixtures: tiny videos and images with questions, and shards of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.packing.pack import pack
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import load_tokenizer
from tests.data.factories import (
    MIXED_RECORDS,
    PACK,
    VIDEO,
    VIDEO_NAMES,
    write_mixed_files,
    write_records,
    write_video,
)
from tests.data.feature_factories import extract_all

if TYPE_CHECKING:  # importing toy_run loads Lightning, which takes seconds
    from tests.helpers.toy_run import ToyProject, TrainedRun


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of 3 to 7 seconds."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(VIDEO_NAMES):
        write_video(folder / name, num_seconds=3 + number)
    return folder


@pytest.fixture(scope="session")
def tiny_questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One question about the first video, two about the second, and so on."""
    records = [
        {
            "video": name,
            "question": f"What is {n}?",
            "options": ["red", "blue"],
            "answer": "B",
            "evidence": [[0, n + 1]],
        }
        for number, name in enumerate(VIDEO_NAMES)
        for n in range(number + 1)
    ]
    file = tmp_path_factory.mktemp("questions") / "questions.json"
    file.write_text(json.dumps(records))
    return file


@pytest.fixture(scope="session")
def frame_shards(
    tiny_videos: Path, tiny_questions: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Three shards of the five videos; do not change them."""
    out = tmp_path_factory.mktemp("packed")
    pack(tiny_videos, tiny_questions, out, VIDEO, PACK)
    return out


@pytest.fixture(scope="session")
def feature_shards(frame_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of features; do not change them."""
    path = tmp_path_factory.mktemp("encoded")
    extract_all(path, frame_shards)
    return path


@pytest.fixture(scope="session")
def mixed_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `MIXED_RECORDS`; do not change them."""
    folder = tmp_path_factory.mktemp("mixed_files")
    write_mixed_files(folder)
    return folder


@pytest.fixture(scope="session")
def mixed_shards(mixed_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of all modalities, with a video in the first one; do not change them."""
    folder = tmp_path_factory.mktemp("mixed")
    questions = write_records(folder / "questions.json", MIXED_RECORDS)
    pack(
        mixed_files,
        questions,
        folder / "shards",
        VIDEO,
        PackConfig(videos_per_shard=3, num_workers=1),
    )
    return folder / "shards"


@pytest.fixture
def corrupt_copy(
    frame_shards: Path, tmp_path: Path
) -> Callable[[str, Callable[[bytes], bytes]], Path]:
    """Return a function that copies the frame shards and changes the bytes of one file."""

    def corrupt(name: str, change: Callable[[bytes], bytes]) -> Path:
        folder = shutil.copytree(frame_shards, tmp_path / "corrupt_copy")
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return folder

    return corrupt


@pytest.fixture(scope="session")
def processor(trained: TrainedRun) -> HourLLaVAProcessor:
    """The processor of a trained toy run."""
    return HourLLaVAProcessor(
        load_tokenizer(trained.run.tokenizer), trained.project.config("none").text
    )


@pytest.fixture(scope="session")
def two_sources(toy: ToyProject, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for two sources: the toy run's, and half of a copy of it."""
    copy = shutil.copytree(
        toy.yaml.parent / "world/train/shards", tmp_path_factory.mktemp("copy") / "shards"
    )
    return [f"data.sources.copy.shards={copy}", "data.sources.copy.weight=0.5"]


@pytest.fixture(scope="session")
def uneven_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of forty videos of 1 to 24 frames, with one question each."""
    folder = tmp_path_factory.mktemp("uneven_shards")
    records = []
    for number in range(40):
        name = f"{number}.mp4"
        write_video(
            folder / "videos" / name,
            num_seconds=1 + number * 7 % 24,
            frames_per_second=1,
            size_pixels=16,
        )
        records.append({"video": name, "question": "What moves?", "answer": "A gradient."})
    questions = write_records(folder / "questions.json", records)
    video = VideoConfig(min_frames=1, max_frames=24, image_size=64)
    pack(
        folder / "videos",
        questions,
        folder / "shards",
        video,
        PackConfig(videos_per_shard=5, num_workers=1),
    )
    return folder / "shards"
