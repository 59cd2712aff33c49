"""Tiny encoded videos with questions, and the shards made of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import NAMES, SETTINGS, VIDEO, write_video

from lit_hour.data.pack import pack


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of 3 to 7 seconds."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        write_video(folder / name, num_seconds=3 + number)
    return folder


@pytest.fixture(scope="session")
def tiny_questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One question about the first video, two about the second, and so on."""
    records = [
        {"video": name, "question": f"What is {n}?", "options": ["red", "blue"], "answer": "B", "evidence": [[0, n + 1]]}
        for number, name in enumerate(NAMES)
        for n in range(number + 1)
    ]
    file = tmp_path_factory.mktemp("questions") / "questions.json"
    file.write_text(json.dumps(records))
    return file


@pytest.fixture(scope="session")
def packed(tiny_videos: Path, tiny_questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of the five videos, not to be changed."""
    out = tmp_path_factory.mktemp("packed")
    pack(tiny_videos, tiny_questions, out, VIDEO, SETTINGS)
    return out


@pytest.fixture
def spoiled(packed: Path, tmp_path: Path) -> Callable[[str, Callable[[bytes], bytes]], Path]:
    """Makes a copy of the shards in which one file's bytes are changed."""

    def spoil(name: str, change: Callable[[bytes], bytes]) -> Path:
        folder = shutil.copytree(packed, tmp_path / "spoiled")
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return folder

    return spoil
