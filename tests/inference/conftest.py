"""A predictor with random weights, a video, and its memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.types import Question
from tests.inference.helpers import CONFIG, make_predictor, write_video

FRUITS = ("apple", "banana", "cherry", "date")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of half a minute."""
    return write_video(tmp_path_factory.mktemp("videos") / "walk.mp4", 30)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Open-ended and multiple-choice questions."""
    texts = ("What is shown?", "What happens?", "Which color is it?")
    return [
        *[Question(f"open-{text}", "", "open_ended", text, "red") for text in texts],
        *[
            Question(f"choice-{text}", "", "multiple_choice", text, FRUITS[index], FRUITS)
            for index, text in enumerate(texts)
        ],
    ]


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    """A predictor that samples six frames and gives a different answer to each question."""
    config = replace(
        CONFIG,
        video=replace(CONFIG.video, min_frames=4, max_frames=6),
        model=replace(CONFIG.model, memaug=replace(CONFIG.model.memaug, min_frames=4)),
        generation=replace(CONFIG.generation, max_new_tokens=12),
    )
    return make_predictor(config)


@pytest.fixture(scope="module")
def memory(predictor: VideoPredictor, video: Path) -> VideoMemory:
    return predictor.encode_video(video)
