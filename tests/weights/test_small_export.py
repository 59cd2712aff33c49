"""Factors and 8 bits of `lit-hour export-small`; tests/test_small.py exports a real run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_hour.errors import WeightsError
from lit_hour.weights.small_export import (
    _factorize,
    _quantize,
    _restore,
    export_small,
    import_small,
)

NAME = "llm.network.model.layers.0.mlp.up_proj.weight"


def test_change_of_low_rank_is_restored_within_8_bits() -> None:
    torch.manual_seed(0)
    base = torch.randn(60, 40)
    change = torch.randn(60, 16) @ torch.randn(16, 40)
    learned = {"memaug.a": torch.randn(50, 30), "memaug.b": torch.randn(30)}
    stored = _factorize(NAME, change, rank=16)
    for name, weight in learned.items():
        stored |= _quantize(name, weight)
    assert sum(one.dtype == torch.int8 for one in stored.values()) == 3
    restored = dict(_restore(stored, {NAME: base, "vision.a": base}))
    assert restored.keys() == {NAME, "vision.a", *learned}
    assert torch.equal(restored["vision.a"], base)
    assert (restored[NAME] - base - change).norm() < 0.02 * change.norm()
    for name, weight in learned.items():
        assert (restored[name] - weight).abs().max() <= weight.abs().max() / 127 / 2 + 1e-3


@pytest.mark.parametrize(
    "name, change, problem",
    (
        (NAME, torch.eye(40), "more than rank 16.*Raise --rank"),
        ("llm.network.model.norm.weight", torch.ones(40), "only matrices of the language model"),
        ("vision.tower.weight", torch.ones(4, 4), "learning_rate.vision=0"),
    ),
)
def test_other_changes_are_refused(name: str, change: torch.Tensor, problem: str) -> None:
    with pytest.raises(WeightsError, match=problem):
        _factorize(name, change, rank=16)


def test_rank_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"--rank -8 must be at least 1"):
        export_small(tmp_path / "run", tmp_path / "small.safetensors", rank=-8)


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match="is not a file of lit-hour export-small"):
        import_small(file, tmp_path / "run")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="truncated, corrupt"):
        import_small(file, tmp_path / "run")
    with pytest.raises(WeightsError, match="does not exist"):
        import_small(tmp_path / "missing.safetensors", tmp_path / "run")
    assert not (tmp_path / "run").exists()
