"""The device of the tests marked `gpu`, and toy runs on it."""

from __future__ import annotations

import os

import open_clip
import pytest
import torch

from tests import REPOSITORY

DEVICE_VARIABLE = "LIT_HOUR_TEST_DEVICE"  # cpu for a rehearsal

open_clip.add_model_config(REPOSITORY / "tests/model/towers")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU, or the CPU in a rehearsal."""
    name = os.environ.get(DEVICE_VARIABLE) or ("cuda" if torch.cuda.is_available() else "")
    if not name:
        pytest.skip(f"no GPU here; {DEVICE_VARIABLE}=cpu rehearses on the CPU")
    return torch.device(name)


@pytest.fixture(scope="session")
def on_device(device: torch.device) -> tuple[str, ...]:
    """Settings of a toy run on the device."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    return (f"training.accelerator={accelerator}", "training.devices=1")
