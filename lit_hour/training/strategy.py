"""Where and how the Trainer runs: devices, precision, and how its checkpoints are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import nn

from lit_hour.config.load import save_config
from lit_hour.config.schema import Config, TrainingConfig

BFLOAT16: Literal["bf16-true"] = "bf16-true"


def hardware(settings: TrainingConfig) -> dict[str, Any]:
    """The Trainer's arguments for devices and precision; that of bf16-true is a plugin, as `precision_plugins` has it."""
    return {
        "accelerator": settings.accelerator,
        "devices": int(settings.devices) if settings.devices.isdigit() else settings.devices,
        "num_nodes": settings.num_nodes,
        "precision": None if settings.precision == BFLOAT16 else settings.precision,
    }


def precision_plugins(settings: TrainingConfig) -> list[HalfPrecision]:
    """The Trainer's plugins for the precision."""
    return [WeightsInBfloat16(BFLOAT16)] if settings.precision == BFLOAT16 else []


class WeightsInBfloat16(HalfPrecision):
    """Weights, gradients and the optimizer's state in bfloat16, and nothing else.

    Lightning's own would also take the rotary frequencies, positions and random draws to bfloat16, in which an hour's
    positions are not distinct; and it cannot look into our batches.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Convert the weights."""
        module = super().convert_module(module)
        module.model.language.complete()  # type: ignore[operator, union-attr]
        return module

    def convert_input(self, data: Any) -> Any:
        """Leave a batch as it is: the model knows what it wants."""
        return data

    def tensor_init_context(self) -> AbstractContextManager:
        """Make new tensors as ever."""
        return nullcontext()

    def module_init_context(self) -> AbstractContextManager:
        """Make new modules as ever; they are converted afterwards."""
        return nullcontext()

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Make new tensors as ever."""
        yield


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
