"""Where and how the Trainer runs: devices and precision."""

from __future__ import annotations

from typing import Any

from lit_hour.config.schema import TrainingConfig


def hardware(settings: TrainingConfig) -> dict[str, Any]:
    """The Trainer's arguments for devices and precision."""
    return {
        "accelerator": settings.accelerator,
        "devices": int(settings.devices) if settings.devices.isdigit() else settings.devices,
        "num_nodes": settings.num_nodes,
        "precision": settings.precision,
    }
