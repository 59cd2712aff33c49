"""Parameter groups with a learning rate for each part of the model, and a common schedule."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lit_hour.config.schema import TrainingConfig
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA


def parameters_by_part(model: HourLLaVA) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of each part with its own learning rate; of a LoRA LLM the adapters."""
    return {
        "vision": list(model.vision.parameters()),
        "projector": [*model.projector.parameters(), model.frame_newline],
        "memaug": list(model.memaug.parameters()),
        "llm": model.llm.trainable_parameters(),
    }


def freeze_parts(model: HourLLaVA, training: TrainingConfig) -> None:
    """Set `requires_grad` for the parts with a learning rate above 0, and for no others."""
    rates = asdict(training.learning_rate)
    model.requires_grad_(False)
    for part, parameters in parameters_by_part(model).items():
        for parameter in parameters:
            parameter.requires_grad_(rates[part] > 0)


def build_optimizer(model: HourLLaVA, training: TrainingConfig, num_steps: int) -> dict[str, Any]:
    """Build AdamW with a named group for each trained part, and a cosine schedule with warm-up.

    Returns:
        What `configure_optimizers` returns to Lightning.

    Raises:
        ConfigError: every part is frozen.
    """
    rates = asdict(training.learning_rate)
    groups = [
        {"params": parameters, "lr": rates[part], "name": part}
        for part, parameters in parameters_by_part(model).items()
        if rates[part] > 0
    ]
    if not groups:
        raise ConfigError("Every part is frozen. Set at least one training.learning_rate above 0")
    optimizer = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    num_warmup_steps = round(training.warmup_ratio * num_steps)
    schedule = LambdaLR(
        optimizer, lambda step: cosine_with_warmup(step, num_steps, num_warmup_steps)
    )
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "learning_rate"},
    }


def cosine_with_warmup(step: int, num_steps: int, num_warmup_steps: int) -> float:
    """Return the factor of the peak learning rate: linear warm-up from 0, half a cosine to 0."""
    if step < num_warmup_steps:
        return step / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
