"""The embedding of times, which no published checkpoint has: new ones are zero."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_hour.config.load import load_config
from lit_hour.errors import WeightsError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.run_dir import RunDir
from lit_hour.weights.convert import convert
from lit_hour.weights.pretrained import (
    config_for_new_run,
    load_pretrained_weights,
    open_pretrained,
)
from tests.weights.factories import TOWER_OVERRIDES, read_folder

NAME, SETTING = "time_embedding.weight", "text.frame_times=embedding"


def start_from(source: Path, *overrides: str) -> HourLLaVA:
    argv = [*TOWER_OVERRIDES, "model.memaug.num_layers=2", f"training.init_from={source}"]
    config = config_for_new_run(load_config(None, [*argv, SETTING, *overrides]))
    open_pretrained(config)
    model = HourLLaVA.from_config(config, 300)
    load_pretrained_weights(model, config)
    return model


def test_a_run_from_one_without_starts_at_zero(
    published: tuple[Path, dict[str, Tensor]], run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    for source in (published[0], run.path):
        with caplog.at_level(logging.INFO, "lit_hour"):
            model = start_from(source)
        assert torch.equal(model.frame_newline, published[1]["model.image_newline"].float())
        assert not model.get_parameter(NAME).any()
    assert "Randomly initialized" not in caplog.text


def test_a_run_converted_with_it_starts_at_zero_and_is_not_converted_back(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    report = convert(published[0], run, [*TOWER_OVERRIDES, SETTING])
    stored = read_folder(run / "checkpoints/converted")
    assert report.num_weights == len(stored) and not stored[NAME].any()
    model = VideoPredictor.from_run(run, device="cpu").model
    assert not model.get_parameter(NAME).any()
    with pytest.raises(WeightsError, match=r"no embedding of times\. Convert a run with"):
        convert(run, tmp_path / "back")
    with pytest.raises(WeightsError, match=f"unexpected: {NAME}"):  # nothing is dropped in silence
        convert(run, tmp_path / "back", ["text.frame_times=off"])
    assert not (tmp_path / "back").exists()
    with pytest.raises(WeightsError, match=f"unexpected: {NAME}"):
        start_from(run, "text.frame_times=off")


def test_a_checkpoint_of_a_run_with_it_must_have_it(run: RunDir) -> None:
    with pytest.raises(WeightsError, match=f"missing: {NAME}"):
        VideoPredictor.from_run(run.path, device="cpu", overrides=[SETTING])


def test_words_are_a_difference_from_the_published_code(run: RunDir, tmp_path: Path) -> None:
    (note,) = [
        note
        for note in convert(run.path, tmp_path / "a", ["text.frame_times=text"]).notes
        if "differently" in note
    ]
    assert "text.frame_times=text (published: off)" in note
    assert not any("differently" in note for note in convert(run.path, tmp_path / "b").notes)
