"""List samples that could not be read, and stop the run when there are too many of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from lit_hour.errors import ShardError
from lit_hour.types import Batch


class BadSampleBudget(Callback):
    """Counts each video or image that could not be read once, and lists it in a JSONL file.

    Raises:
        ShardError: this rank has skipped more than `budget` samples since this start of the run.
    """

    def __init__(self, file: Path, budget: int) -> None:
        self._file = file
        self._budget = budget
        self._keys: set[str] = set()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Count the bad samples of a training batch and log their number over all ranks."""
        self._count(batch)
        num_bad = float(len(self._keys))
        pl_module.log("data/bad_samples", num_bad, sync_dist=True, reduce_fx="sum", batch_size=1)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the bad samples of a validation batch."""
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        new = [skipped for skipped in batch.skipped if skipped.key not in self._keys]
        if not new:
            return
        self._keys.update(skipped.key for skipped in new)
        with self._file.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(asdict(skipped)) + "\n" for skipped in new)
        if len(self._keys) > self._budget:
            raise ShardError(
                f"{len(self._keys)} videos or images could not be read, and"
                f" data.max_bad_samples={self._budget} allows {self._budget}. All are listed in"
                f" {self._file}. The latest: {new[-1].reason}"
            )
