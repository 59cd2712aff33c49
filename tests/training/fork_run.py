"""Run `python train.py` with forks of the test process as ranks, and inject faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

import train
from lit_hour.training import fit
from lit_hour.types import Batch
from tests.helpers.fork import ForkedRanks, fork_ranks
from tests.helpers.toy_run import ToyProject


class AtBatch(Callback):
    """Calls a function at the end of one batch of training, or of validation, on one rank."""

    def __init__(
        self, do: Callable[[], object], *, batch: int, rank: int = 0, in_validation: bool = False
    ) -> None:
        self._do, self._batch, self._rank, self._in_validation = do, batch, rank, in_validation
        self._num_seen = 0

    def _count(self, trainer: L.Trainer) -> None:
        if trainer.validating is self._in_validation and trainer.global_rank == self._rank:
            self._num_seen += 1
            if self._num_seen == self._batch:
                self._do()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Batch, index: int
    ) -> None:
        self._count(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        index: int,
        loader: int = 0,
    ) -> None:
        self._count(trainer)


def fork_run(
    toy: ToyProject,
    name: str,
    *overrides: str,
    num_ranks: int = 1,
    callback: Callback | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> ForkedRanks:
    """Start `python train.py` in forked ranks.

    Args:
        callback: one more callback.
        prepare: called in each rank before it trains.
    """
    toy.runs.mkdir(exist_ok=True)
    overrides = (*toy.argv(name, *overrides), f"training.devices={num_ranks}")

    def work(rank: int) -> None:
        build_callbacks = fit.build_callbacks
        fit.build_callbacks = lambda *given: [
            *build_callbacks(*given),
            *([callback] if callback else []),
        ]
        prepare()
        train.main(list(overrides))

    return fork_ranks(work, [toy.runs / f"{name}-{rank}.txt" for rank in range(num_ranks)])
