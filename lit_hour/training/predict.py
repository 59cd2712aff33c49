"""Lightning's `predict` over any number of processes and machines, for features and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import lightning as L
import torch

from lit_hour.config.training import TrainingConfig
from lit_hour.io.file_lock import dir_lock, is_locked, rank_locks
from lit_hour.training.trainer_setup import (
    build_predict_trainer,
    check_accelerator,
    readable_messages,
)

Item = TypeVar("Item")


def predict(module: L.LightningModule, training: TrainingConfig, advice: str) -> None:
    """Run a module that stores its results itself; every rank holds the whole module.

    Args:
        module: its `predict_step` is called for each item of its `predict_dataloader`.
        training: the hardware and precision to use.
        advice: what to do when another process has died; ends the error's message.

    Raises:
        ConfigError: this machine lacks the accelerator or devices of the settings.
        RunError: another process has died.
    """
    check_accelerator(training)
    if training.num_threads:
        torch.set_num_threads(training.num_threads)
    trainer = build_predict_trainer(training)
    with readable_messages(advice):
        trainer.predict(module, return_predictions=False)


@contextmanager
def claim_output_dir(folder: Path, parts: Path, locks: ExitStack) -> Iterator[None]:
    """Wait until no earlier start uses an output folder, then prepare it in the `with` block.

    Rank zero calls this before the ranks of its start acquire `dir_lock(parts, rank)`.

    Args:
        folder: the output folder; locked until `locks` is closed.
        parts: subfolder in which every rank of a start has a lock. The ranks of an earlier start
            may survive their rank zero, so this waits for their locks too.
        locks: receives the lock on `folder`.
    """
    lock, earlier_ranks = dir_lock(folder), rank_locks(parts)
    if any(map(is_locked, [lock, *earlier_ranks])):
        print(f"{folder} is in use by an earlier start; waiting for its end.", flush=True)
    locks.enter_context(lock)
    for earlier_rank in earlier_ranks:
        with earlier_rank:
            pass
    yield


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
