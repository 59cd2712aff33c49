"""Where and how the Trainer runs: devices, precision, and how its checkpoints are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.plugins.precision import HalfPrecision, Precision

from lit_hour.config.load import save_config
from lit_hour.config.schema import Config, TrainingConfig

TRUE_HALF: Literal["bf16-true"] = "bf16-true"


def hardware(settings: TrainingConfig) -> dict[str, Any]:
    """The Trainer's arguments for devices and precision."""
    return {
        "accelerator": settings.accelerator,
        "devices": int(settings.devices) if settings.devices.isdigit() else settings.devices,
        "num_nodes": settings.num_nodes,
        **({} if settings.precision == TRUE_HALF else {"precision": settings.precision}),
    }


def precision_plugins(settings: TrainingConfig) -> list[Precision]:
    """What computes in bf16 alone; every other precision Lightning knows by name."""
    return [BatchHalfPrecision(TRUE_HALF)] if settings.precision == TRUE_HALF else []


class BatchHalfPrecision(HalfPrecision):
    """Weights and arithmetic in bf16."""

    def convert_input(self, data: Any) -> Any:
        """A batch stays as it is: its pictures are bytes, and Lightning cannot look into it."""
        return data


class RunCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then moves it there; the effective settings lie beside it as YAML.

    A checkpoint is therefore complete or absent, and the one before stays until then.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save both files; the settings first, so that no checkpoint is ever without them."""
        file = Path(path)
        weights, settings = file.with_suffix(".ckpt.part"), file.with_suffix(".yaml.part")
        file.parent.mkdir(parents=True, exist_ok=True)
        super().save_checkpoint(checkpoint, weights, storage_options)
        save_config(self._config, settings)
        os.replace(settings, file.with_suffix(".yaml"))
        os.replace(weights, file)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove both files."""
        super().remove_checkpoint(path)
        Path(path).with_suffix(".yaml").unlink(missing_ok=True)
