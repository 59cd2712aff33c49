"""A predictor that babbles, and a video that it has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lit_hour.data.questions.record import parse_question
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.processor import Processor
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.types import Question
from tests.helpers.toy_run import TrainedRun


@pytest.fixture(scope="module")
def video(trained: TrainedRun) -> Path:
    return trained.project.yaml.parent / "world/validation/videos/synthetic_00000.mp4"


@pytest.fixture(scope="module")
def questions(trained: TrainedRun, video: Path) -> list[Question]:
    records = json.loads((video.parents[1] / "questions.json").read_text())
    return [
        parse_question(record, "questions.json")
        for record in records
        if record["video"] == video.name
    ][:6]


@pytest.fixture(scope="module")
def predictor(trained: TrainedRun) -> VideoPredictor:
    """A model that has learnt nothing: it babbles, and says something else to each question."""
    babble = (
        "model.llm.initializer_range=0.5",
        "model.llm.tie_word_embeddings=false",
        "generation.max_new_tokens=12",
    )
    config = trained.project.config("none", *babble)
    processor = Processor(load_tokenizer(trained.run.tokenizer), config.text)
    torch.manual_seed(0)
    return VideoPredictor(config, HourLLaVA(config, len(processor.tokenizer)), processor)


@pytest.fixture(scope="module")
def memory(predictor: VideoPredictor, video: Path) -> VideoMemory:
    return predictor.encode_video(video)
