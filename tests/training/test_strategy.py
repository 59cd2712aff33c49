import pytest

from lit_hour.config.schema import TrainingConfig
from lit_hour.training.strategy import hardware


@pytest.mark.parametrize(("written", "devices"), [("2", 2), ("auto", "auto")])
def test_hardware_is_named_as_lightning_takes_it(written: str, devices: int | str) -> None:
    settings = TrainingConfig(accelerator="cpu", devices=written, num_nodes=3, precision="bf16-true")
    assert hardware(settings) == {"accelerator": "cpu", "devices": devices, "num_nodes": 3, "precision": "bf16-true"}
