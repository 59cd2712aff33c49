"""Frozen weights that a checkpoint names by digest: what is left out, and what is verified."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_hour.config.model import LoraConfig
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.weights.base_weights import (
    BASE_WEIGHTS,
    BaseRecord,
    frozen_names,
    record_base,
    verified,
    weight_digest,
    with_sources,
)
from lit_hour.weights.name_map import merge_adapters
from lit_hour.weights.reader import StoredWeights

CONFIG = Config(training=replace(Config().training, init_from="/base"))


def stored(tensors: dict[str, Tensor]) -> StoredWeights:
    metas = {name: one.to("meta") for name, one in tensors.items()}
    return StoredWeights(Path("base"), metas, tensors.__getitem__)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.int64))
def test_digest_depends_on_every_bit_the_shape_and_the_dtype(dtype: torch.dtype) -> None:
    weight = torch.arange(12).reshape(3, 4).to(dtype)
    changed = weight.clone()
    changed.view(torch.uint8).view(-1)[-1] ^= 1
    others = [changed, weight.reshape(4, 3), weight.t().contiguous(), weight.to(torch.float64)]
    digests = {weight_digest([one]) for one in (weight, *others)}
    assert len(digests) == 5
    assert weight_digest([weight.t().contiguous().t()]) == weight_digest([weight])  # strides


def test_weights_are_read_unless_one_differs_or_is_missing() -> None:
    tensors = {name: torch.randn(3, 2) for name in "abc"}
    record = record_base(CONFIG, stored(tensors), {"a": "llm.a", "b": "llm.b"})
    entry = BaseRecord.of_checkpoint({BASE_WEIGHTS: record.to_entry()})
    assert entry == record and record.sources == {"training.init_from": "/base"}
    names = {"llm.a": "a", "llm.b": "b"}
    found = dict(verified(stored(tensors), names, record, "X").tensors())
    assert found.keys() == names.keys() and torch.equal(found["llm.b"], tensors["b"])
    tensors["b"] = tensors["b"] * (1 + 1e-7)
    changed = verified(stored(tensors), names, record, "X")
    assert torch.equal(changed.read("llm.a"), tensors["a"])
    with pytest.raises(WeightsError, match=r"X was trained on another base than base: llm\.b diff"):
        changed.read("llm.b")
    with pytest.raises(WeightsError, match=r"X needs llm\.b, which base lacks"):
        verified(stored({"a": tensors["a"]}), names, record, "X")


def test_digest_of_merged_adapters_is_that_of_their_stored_parts() -> None:
    """A matrix product may differ in its last bit on another machine."""
    layer = "llm.q_proj"
    tensors = {
        f"{layer}.base_layer.weight": torch.randn(4, 3),
        f"{layer}.lora_A.default.weight": torch.randn(2, 3),
        f"{layer}.lora_B.default.weight": torch.randn(4, 2),
    }
    merged = merge_adapters(stored(tensors), LoraConfig(rank=2))
    assert weight_digest(merged.parts(f"{layer}.weight")) == weight_digest(tensors.values())


def test_buffers_of_a_part_that_learns_are_not_frozen() -> None:
    model = nn.ModuleDict(
        {name: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for name in ("frozen", "learned")}
    )
    model["frozen"].requires_grad_(False)
    model["learned"][0].bias.requires_grad_(False)
    names = {"0.weight", "0.bias", "1.weight", "1.bias"}
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    expected = {f"frozen.{name}" for name in names | buffers} | {"learned.0.bias"}
    assert frozen_names(model) == expected


def test_tied_weight_that_learns_is_frozen_by_neither_name() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "output": nn.Linear(2, 3, bias=False)})
    model["output"].weight = model["embedding"].weight
    assert frozen_names(model) == set()
    assert frozen_names(model.requires_grad_(False)) == {"embedding.weight", "output.weight"}


def test_relative_source_is_found_by_its_recorded_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    config = replace(CONFIG, training=replace(CONFIG.training, init_from="base"))
    monkeypatch.chdir(tmp_path)
    record = record_base(config, stored({}), {})
    assert with_sources(config, record).training.init_from == "base"
    monkeypatch.chdir("/")
    assert with_sources(config, record).training.init_from == str(tmp_path / "base")
