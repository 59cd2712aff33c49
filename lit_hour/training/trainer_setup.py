"""Where and how the Trainer runs: devices and precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

from lightning.pytorch.plugins.precision import HalfPrecision
from torch import nn

from lit_hour.config.schema import TrainingConfig

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
    return [TrueBf16Precision(BFLOAT16)] if settings.precision == BFLOAT16 else []


class TrueBf16Precision(HalfPrecision):
    """Weights, gradients and the optimizer's state in bfloat16, and nothing else.

    Lightning's own would also take the rotary frequencies, positions and random draws to bfloat16, in which an hour's
    positions are not distinct; and it cannot look into our batches.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Convert the weights."""
        module = super().convert_module(module)
        module.model.llm.reset_nonpersistent_buffers()  # type: ignore[operator, union-attr]
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
