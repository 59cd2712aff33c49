"""Where and how the Trainer runs: devices and precision."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.plugins.precision import HalfPrecision, Precision

from lit_hour.config.schema import TrainingConfig

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
