"""A module and the settings of training -> Lightning's predict on any number of processes and machines, each with its share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeVar

import lightning as L
import torch

from lit_hour.config.schema import TrainingConfig
from lit_hour.training.callbacks.preemption import slurm_environment
from lit_hour.training.distributed import explain_crashes
from lit_hour.training.trainer_setup import hardware, precision_plugins

BESIDE_THE_POINT = (  # what Lightning warns of here
    ".*does not have many workers",
    ".*predict returned None",
    ".*LeafSpec",  # of its own use of torch
)
Work = TypeVar("Work")


def predict(module: L.LightningModule, settings: TrainingConfig, advice: str) -> None:
    """Run a module that keeps its results itself; every rank has the whole of it, however its model is trained.

    Args:
        advice: what to do when another process has died.

    Raises:
        RunError: one has.
    """
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    trainer = L.Trainer(
        **{**hardware(settings), "strategy": "auto"},
        plugins=[*precision_plugins(settings), *slurm_environment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with explain_crashes(advice), warnings.catch_warnings():
        for message in BESIDE_THE_POINT:
            warnings.filterwarnings("ignore", message)
        trainer.predict(module, return_predictions=False)


def assign_greedily(
    works: Sequence[Work], costs: Sequence[float], num_ranks: int
) -> list[list[Work]]:
    """Each work, in order, to the rank that has least to do so far."""
    shares: list[list[Work]] = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    for work, cost in zip(works, costs, strict=True):
        rank = loads.index(min(loads))
        shares[rank].append(work)
        loads[rank] += cost
    return shares
