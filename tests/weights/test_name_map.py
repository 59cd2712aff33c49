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
from tests.weights.factories import (
    HOUR_LLAVA,
    SIGLIP_PREFIX,
    TOWER_OVERRIDES,
    shapes_of,
    write_config,
)


@pytest.fixture
def meta_tensors(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Meta tensors of the small model."""
    write_config(tmp_path)
    config = config_from_dict(
        settings_from_hf(read_published_config(tmp_path), names_tower=True), "made", TOWER_OVERRIDES
    )
    return drop_tied_output(meta_state_dict(config, 0), config)


def test_names_round_trip_for_every_weight(
    meta_tensors: dict[str, torch.Tensor],
) -> None:
    state = {name: torch.randn(meta_tensor.shape) for name, meta_tensor in meta_tensors.items()}
    ours = StoredWeights(Path("made"), meta_tensors, state.__getitem__)
    published = to_hf(ours)
    back = from_hf(published, meta_tensors, HOUR_LLAVA["hidden_size"])
    assert list(back.meta_tensors) == list(meta_tensors)
    assert shapes_of(back.meta_tensors) == shapes_of(ours.meta_tensors)
    for name, weight in back.tensors():
        assert torch.equal(weight, state[name]), name
    for name, weight in published.tensors():
        assert weight.shape == published.meta_tensors[name].shape, name


@pytest.mark.parametrize("weights", ("full_tied", "full_untied"))
def test_names_equal_recorded_names(golden: Path, tmp_path: Path, weights: str) -> None:
    state = load_file(golden / f"{weights}_state.safetensors")
    sidecar = json.loads((golden / f"{weights}_state.json").read_text(encoding="utf-8"))
    write_config(tmp_path, **sidecar["config.json"])
    config = config_from_dict(
        settings_from_hf(read_published_config(tmp_path), names_tower=True),
        "recorded",
        TOWER_OVERRIDES,
    )
    expected = hf_meta_tensors(drop_tied_output(meta_state_dict(config, 0), config))
    without_tower = {
        name: tuple(meta_tensor.shape)
        for name, meta_tensor in expected.items()
        if not name.startswith(SIGLIP_PREFIX)
    }
    # recorded with the width of the published tower
    recorded_shape = {"model.mm_projector.0.weight": (64, 1152)}
    assert without_tower | recorded_shape == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }


def test_name_map_refuses_tower_other_than_siglip() -> None:
    with pytest.raises(
        WeightsError,
        match=r"tower has conv1\.weight, which SigLIP lacks\. .*: train one with model\.vision",
    ):
        weight_group("vision.tower.conv1.weight")
