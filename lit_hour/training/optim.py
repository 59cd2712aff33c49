"""Parts of the model -> parameter groups with a learning rate each, and the schedule that they share."""

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
    """The parameters of each part that has a learning rate of its own; of a language model with adapters those alone."""
    return {
        "vision": list(model.vision.parameters()),
        "projector": [*model.projector.parameters(), model.frame_newline],
        "memaug": list(model.memaug.parameters()),
        "llm": model.llm.trainable_parameters(),
    }


def freeze_parts(model: HourLLaVA, settings: TrainingConfig) -> None:
    """A part whose learning rate is 0 learns nothing and keeps no gradient."""
    rates = asdict(settings.learning_rate)
    model.requires_grad_(False)
    for part, parameters in parameters_by_part(model).items():
        for parameter in parameters:
            parameter.requires_grad_(rates[part] > 0)


def build_optimizer(model: HourLLaVA, settings: TrainingConfig, num_steps: int) -> dict[str, Any]:
    """AdamW with a named group for each learning part, and a cosine schedule with warm-up, as Lightning takes them.

    Raises:
        ConfigError: every part is frozen.
    """
    rates = asdict(settings.learning_rate)
    groups = [
        {"params": parameters, "lr": rates[part], "name": part}
        for part, parameters in parameters_by_part(model).items()
        if rates[part] > 0
    ]
    if not groups:
        raise ConfigError("every part is frozen: give at least one training.learning_rate above 0")
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    num_warmup_steps = round(settings.warmup_ratio * num_steps)
    schedule = LambdaLR(
        optimizer, lambda step: cosine_with_warmup(step, num_steps, num_warmup_steps)
    )
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "learning_rate"},
    }


def cosine_with_warmup(step: int, num_steps: int, num_warmup_steps: int) -> float:
    """Share of the peak learning rate: a line up from 0 over the warm-up, then half a cosine down to 0."""
    if step < num_warmup_steps:
        return step / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
