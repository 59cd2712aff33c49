"""A predictor with random weights, and the memory of a synthetic video."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_hour.data.questions.record import parse_question
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.types import Question
from tests.helpers.toy_run import TrainedRun
from tests.inference.helpers import make_run_predictor


@pytest.fixture(scope="module")
def video(trained: TrainedRun) -> Path:
    return trained.project.yaml.parent / "world/validation/videos/synthetic_00000.mp4"


@pytest.fixture(scope="module")
def questions(trained: TrainedRun, video: Path) -> list[Question]:
    """Six questions about the video."""
    records = json.loads((video.parents[1] / "questions.json").read_text())
    about_video = [record for record in records if record["video"] == video.name]
    return [parse_question(record, "questions.json") for record in about_video[:6]]


@pytest.fixture(scope="module")
def predictor(trained: TrainedRun) -> VideoPredictor:
    """A predictor that gives a different answer to each question."""
    return make_run_predictor(trained, "generation.max_new_tokens=12")


@pytest.fixture(scope="module")
def memory(predictor: VideoPredictor, video: Path) -> VideoMemory:
    return predictor.encode_video(video)
