"""Run Lightning's `predict` over any number of processes and machines: feature extraction, evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeVar

import lightning as L
import torch

from lit_hour.config.schema import TrainingConfig
from lit_hour.training.distributed import explain_crashes
from lit_hour.training.trainer_setup import build_predict_trainer, check_accelerator

IGNORED_WARNINGS = (  # regular expressions of Lightning's warnings that do not apply here
    ".*does not have many workers",
    ".*predict returned None",
    ".*LeafSpec",
)
Item = TypeVar("Item")


def predict(module: L.LightningModule, training: TrainingConfig, advice: str) -> None:
    """Run a module that stores its results itself; every rank holds the whole module.

    Args:
        advice: what to do when another process has died; ends the error's message.

    Raises:
        RunError: another process has died.
        ConfigError: the machine does not have the devices of the settings.
    """
    check_accelerator(training)
    if training.num_threads:
        torch.set_num_threads(training.num_threads)
    trainer = build_predict_trainer(training)
    with explain_crashes(advice), warnings.catch_warnings():
        for message in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        trainer.predict(module, return_predictions=False)


def assign_greedily(
    items: Sequence[Item], costs: Sequence[float], num_ranks: int
) -> list[list[Item]]:
    """Assign each item, in order, to the rank with the lowest total cost so far (list scheduling).

    Returns:
        The items of each rank.
    """
    shares: list[list[Item]] = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    for item, cost in zip(items, costs, strict=True):
        rank = loads.index(min(loads))
        shares[rank].append(item)
        loads[rank] += cost
    return shares
