import pytest

from lit_hour.config.schema import TrainingConfig
from lit_hour.training.strategy import hardware, precision_plugins


@pytest.mark.parametrize(("written", "devices"), [("2", 2), ("auto", "auto")])
def test_hardware_is_named_as_lightning_takes_it(written: str, devices: int | str) -> None:
    settings = TrainingConfig(accelerator="cpu", devices=written, num_nodes=3, precision="bf16-mixed")
    assert hardware(settings) == {"accelerator": "cpu", "devices": devices, "num_nodes": 3, "precision": "bf16-mixed"}


def test_arithmetic_in_bf16_alone_leaves_batches_as_they_are() -> None:
    (plugin,) = precision_plugins(TrainingConfig(precision="bf16-true"))
    batch = object()
    assert plugin.precision == "bf16-true" and plugin.convert_input(batch) is batch
    assert precision_plugins(TrainingConfig(precision="32-true")) == []
    assert "precision" not in hardware(TrainingConfig(precision="bf16-true"))  # Lightning takes one or the other
