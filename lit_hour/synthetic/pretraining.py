"""Seeds, optimizer loop and report of the pretraining of the tower and the language model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import trange

from lit_hour.config.synthetic import PretrainLanguageConfig, PretrainTowerConfig
from lit_hour.io.atomic import atomic_write_text

SEED_BITS = 24  # stories of one seed; the upper half of them are unseen
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
WARMUP_RATIO = 0.15

Settings = PretrainTowerConfig | PretrainLanguageConfig


def first_story_seeds(seed: int) -> tuple[int, int]:
    """Return the seeds of the first story to train on and of the first unseen story."""
    return seed << SEED_BITS, (2 * seed + 1) << (SEED_BITS - 1)


def train(
    groups: Sequence[dict[str, Any]],
    settings: Settings,
    compute_loss: Callable[[], Tensor],
    warmup_ratio: float = WARMUP_RATIO,
) -> None:
    """Train with AdamW and a schedule of one cycle.

    Args:
        groups: of parameters, as AdamW takes them, each with "lr", its largest learning rate.
        settings: number of steps.
        compute_loss: the loss `()` of the next step.
        warmup_ratio: share of the steps in which the learning rate rises.
    """
    parameters: list[nn.Parameter] = [one for group in groups for one in group["params"]]
    optimizer = torch.optim.AdamW(list(groups), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in groups],
        settings.num_steps,
        pct_start=warmup_ratio,
    )
    for step in (bar := trange(settings.num_steps, unit="step")):
        loss = compute_loss()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


def write_report(
    file: Path, name: str, settings: Settings, accuracy: dict[str, float], **others: Any
) -> None:
    """Write what made the weights of a model, and how well it does."""
    report = {"model": name, "settings": asdict(settings), **others, "accuracy": accuracy}
    atomic_write_text(file, json.dumps(report, indent=2) + "\n")


def format_accuracy(accuracy: dict[str, float]) -> str:
    """Format the accuracy of each label or task, 0 to 1, as lines of text."""
    width = max(map(len, accuracy)) + 2
    return "\n".join(f"  {name + ':':{width}}{share:.1%}" for name, share in accuracy.items())
