import pytest
import torch
from torch import nn

from lit_hour.config.schema import TrainingConfig
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.training.trainer_setup import hardware, precision_plugins
from tests.helpers.toy_run import ToyProject, load_weights


@pytest.mark.parametrize(("written", "devices"), [("2", 2), ("auto", "auto")])
def test_hardware_is_named_as_lightning_takes_it(written: str, devices: int | str) -> None:
    settings = TrainingConfig(
        accelerator="cpu", devices=written, num_nodes=3, precision="bf16-mixed"
    )
    assert hardware(settings) == {
        "accelerator": "cpu",
        "devices": devices,
        "num_nodes": 3,
        "precision": "bf16-mixed",
    }


def test_in_bfloat16_are_the_weights_and_nothing_else(toy: ToyProject) -> None:
    words = (
        "training.precision=bf16-true",
        "training.max_steps=2",
        "training.val_every_n_steps=2",
    )
    outcome = toy.fit("bfloat16", *words)
    assert 0 < outcome.scores["validation/loss"] < 10
    assert {weight.dtype for weight in load_weights(outcome.run).values()} == {torch.bfloat16}
    assert hardware(toy.config("none", *words).training)["precision"] is None
    module = nn.Module()
    module.model = HourLLaVA(toy.config("none"), vocabulary_size=300)
    before = module.model.llm.network.model.rotary_emb.inv_freq
    (plugin,) = precision_plugins(toy.config("none", *words).training)
    plugin.convert_module(module)
    after = module.model.llm.network.model.rotary_emb.inv_freq
    assert module.model.frame_newline.dtype == torch.bfloat16 and torch.equal(after, before)
