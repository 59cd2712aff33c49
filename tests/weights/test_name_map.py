import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lit_hour.config.load import config_from_dict
from lit_hour.errors import WeightsError
from lit_hour.weights.hf_config import read_published_config, settings_from_hf
from lit_hour.weights.hf_folder import drop_tied_output, meta_state_dict
from lit_hour.weights.name_map import from_hf, hf_meta_tensors, to_hf, weight_group
from lit_hour.weights.reader import StoredWeights
from tests.weights.made import HOUR_LLAVA, SIGLIP_PREFIX, TOWER_WORDS, write_config


@pytest.fixture
def outlines(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Of the small model, without any data."""
    write_config(tmp_path)
    config = config_from_dict(
        settings_from_hf(read_published_config(tmp_path), names_tower=True), "made", TOWER_WORDS
    )
    return drop_tied_output(meta_state_dict(config, 0), config)


def test_every_weight_has_published_counterparts_and_comes_back(
    outlines: dict[str, torch.Tensor],
) -> None:
    state = {name: torch.randn(outline.shape) for name, outline in outlines.items()}
    ours = StoredWeights(Path("made"), outlines, state.__getitem__)
    published = to_hf(ours)
    again = from_hf(published, outlines, HOUR_LLAVA["hidden_size"])
    assert list(again.meta_tensors) == list(outlines)
    assert again.shapes == ours.shapes
    for name, weight in again.tensors():
        assert torch.equal(weight, state[name]), name
    for name, weight in published.tensors():
        assert weight.shape == published.meta_tensors[name].shape, name


@pytest.mark.parametrize("weights", ("full_tied", "full_untied"))
def test_the_names_are_those_of_the_recorded_files(
    golden: Path, tmp_path: Path, weights: str
) -> None:
    state = load_file(golden / f"{weights}_state.safetensors")
    sidecar = json.loads((golden / f"{weights}_state.json").read_text(encoding="utf-8"))
    write_config(tmp_path, **sidecar["config.json"])
    config = config_from_dict(
        settings_from_hf(read_published_config(tmp_path), names_tower=True), "recorded", TOWER_WORDS
    )
    expected = hf_meta_tensors(drop_tied_output(meta_state_dict(config, 0), config))
    without_tower = {
        name: tuple(outline.shape)
        for name, outline in expected.items()
        if not name.startswith(SIGLIP_PREFIX)
    }
    wide = {
        "model.mm_projector.0.weight": (64, 1152)
    }  # the recorded one is for the published tower
    assert without_tower | wide == {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_a_tower_that_is_no_siglip_has_none() -> None:
    with pytest.raises(
        WeightsError,
        match=r"The vision tower has conv1\.weight, which SigLIP lacks\. Set model\.vision\.name",
    ):
        weight_group("vision.tower.conv1.weight")
