"""`lit-hour filter` with a real language model as teacher: SmolLM2 behind `transformers serve`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lit_hour.cli.main import main
from lit_hour.data.questions.file import read_questions
from lit_hour.io.packaged_weights import SMOLLM2, find_packaged_weights
from lit_hour.text.tokenizer import load_tokenizer, save_tokenizer
from lit_hour.weights.gguf_llm import gguf_config_values, open_gguf_weights
from tests.helpers.small_parts import needs_small
from tests.videomarathon.transformers_server import TransformersServer

pytestmark = [needs_small, pytest.mark.slow]
QUESTIONS = {
    "What color is the sky on a clear day?": ["blue", "pink", "black", "brown"],
    "Which photograph is shown first?": ["a banjo", "a fig", "a camel", "a bow"],
}
NUM_TRIALS = 3


def write_smollm2(folder: Path) -> None:
    """Write SmolLM2 of the package in the Hugging Face layout."""
    file = find_packaged_weights(SMOLLM2, "test")
    config = LlamaConfig(**gguf_config_values(file))
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(dict(open_gguf_weights(file).tensors()), strict=False, assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    save_tokenizer(load_tokenizer(file), folder)


def test_smollm2_is_asked_without_the_video(tmp_path: Path) -> None:
    """Each question is tried so often, by a model that knows nothing of the video."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason=f"`transformers serve` needs {package}")
    records = [
        {"id": text, "video": "a.mp4", "question": text, "options": options, "answer": options[0]}
        for text, options in QUESTIONS.items()
    ]
    (tmp_path / "questions.json").write_text(json.dumps(records))
    models = tmp_path / "models"
    models.mkdir()
    with TransformersServer(models) as server:
        write_smollm2(models / SMOLLM2)
        main(
            [
                "filter",
                str(tmp_path / "questions.json"),
                str(tmp_path / "out"),
                *("--teacher", server.url, "--model", SMOLLM2),
                "videomarathon.response_format=prompt",
                f"videomarathon.filters.blind_trials={NUM_TRIALS}",
            ]
        )
        statuses = server.statuses()
    assert set(statuses) == {"200"} and statuses["200"] >= NUM_TRIALS * len(QUESTIONS)
    kept = [
        one.id
        for sample in read_questions(tmp_path / "out/questions.json")
        for one in sample.questions
    ]
    lines = (tmp_path / "out/dropped.jsonl").read_text().splitlines()
    dropped = {line["record"]["id"]: line["filter"] for line in map(json.loads, lines)}
    assert sorted([*kept, *dropped]) == sorted(QUESTIONS)
    assert set(dropped.values()) <= {"answered_blindly"}
