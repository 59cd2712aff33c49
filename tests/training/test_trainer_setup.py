import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from lit_hour.config.training import TrainingConfig
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.training import trainer_setup
from lit_hour.training.trainer_setup import (
    TrueBf16Precision,
    build_predict_trainer,
    check_accelerator,
    check_quantization,
)
from tests.helpers.toy_run import ToyProject, load_weights


@pytest.mark.parametrize(("devices", "num_devices"), [("2", 2), ("auto", 1)])
def test_trainer_gets_devices_nodes_and_precision(devices: str, num_devices: int) -> None:
    training = TrainingConfig(
        accelerator="cpu", devices=devices, num_nodes=3, precision="bf16-mixed"
    )
    trainer = build_predict_trainer(training)
    assert (trainer.num_devices, trainer.num_nodes) == (num_devices, 3)
    assert isinstance(trainer.precision_plugin, MixedPrecision)


def test_missing_gpu_is_named_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_accelerator(TrainingConfig(accelerator="auto"))
    with pytest.raises(
        ConfigError, match=r"^training\.accelerator=gpu, but .* no GPU here\. Set auto or cpu\.$"
    ):
        check_accelerator(TrainingConfig(accelerator="gpu"))


def test_too_many_devices_are_named_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_setup.CUDAAccelerator, "auto_device_count", lambda: 2)
    check_accelerator(TrainingConfig(accelerator="gpu", devices="2"))
    check_accelerator(TrainingConfig(accelerator="gpu"))
    with pytest.raises(
        ConfigError, match=r"training\.devices=3, but this machine has 2 GPUs\. Set 2 or auto\."
    ):
        check_accelerator(TrainingConfig(accelerator="gpu", devices="3"))


def test_true_bf16_casts_the_weights_and_nothing_else(toy: ToyProject) -> None:
    outcome = toy.fit(
        "bfloat16",
        "training.precision=bf16-true",
        "training.max_steps=2",
        "training.val_every_n_steps=2",
    )
    assert 0 < outcome.scores["val/loss"] < 10
    assert {weight.dtype for weight in load_weights(outcome.run).values()} == {torch.bfloat16}
    module = nn.Module()
    module.model = HourLLaVA.from_config(toy.config("none"), 300)
    before = module.model.llm.network.model.rotary_emb.inv_freq
    TrueBf16Precision().convert_module(module)
    after = module.model.llm.network.model.rotary_emb.inv_freq
    assert module.model.frame_newline.dtype == torch.bfloat16 and torch.equal(after, before)


@pytest.mark.parametrize(
    ("overrides", "message"),
    (
        (("training.learning_rate.llm=0.1",), r"a frozen language model, not .*\.llm=0\.1\. Set"),
        (("model.llm.path=",), r"a pretrained language model\. Set model\.llm\.path or"),
        (("training.save_weights=all",), r"Set training\.save_weights=learned\.$"),
        (("training.strategy=fsdp",), r"not training\.strategy=fsdp\. Set training\.strategy=auto"),
    ),
)
def test_quantized_weights_must_be_frozen_pretrained_and_on_one_device(
    overrides: tuple[str, ...], message: str, toy: ToyProject
) -> None:
    usable = (
        "model.llm.quantize=int8",
        "model.llm.path=smollm2",
        "training.learning_rate.llm=0",
        "training.save_weights=learned",
    )
    check_quantization(toy.config("none", *usable))
    adapters = ("model.llm.lora.rank=2", "training.learning_rate.llm=0.1")
    check_quantization(toy.config("none", *usable, *adapters))
    with pytest.raises(ConfigError, match=rf"^model\.llm\.quantize=int8 needs .*{message}"):
        check_quantization(toy.config("none", *usable, *overrides))
