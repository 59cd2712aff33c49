"""Save the newest checkpoints every N steps, at the end and on preemption, if the run is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_hour.training.loggers import flush_logger
from lit_hour.training.parallelize import ShardedStrategy
from lit_hour.training.run_lease import RunLease
from lit_hour.types import Batch


class LeaseCheck(Callback):
    """Ends a start that has lost the lease on its run directory, before it saves anything.

    Raises:
        RunError: on rank zero. The other ranks end as when a rank is lost.
    """

    def __init__(self, lease: RunLease) -> None:
        self._lease = lease

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Stop before the next batch if the heartbeat has found the lease lost."""
        if self._lease.is_lost:
            self._lease.check()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the lease itself before a checkpoint is written."""
        if trainer.is_global_zero:
            self._lease.check()


class PeriodicCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoints; `last.ckpt` is always the newest, in the end the final step.

    `_last_global_step_saved` is ModelCheckpoint's own: it does not save the same step twice.
    """

    def save_now(self, trainer: L.Trainer) -> None:
        """Save this step to `last.ckpt` unless it is saved already. All ranks have to call this.

        Returns when it is on disk, also with `training.async_checkpoints`.
        """
        if trainer.global_step != self._last_global_step_saved:
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")
            self._last_global_step_saved = trainer.global_step
        if isinstance(trainer.strategy, ShardedStrategy):
            trainer.strategy.wait_for_checkpoints()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark the step of the checkpoint that training resumes from as saved."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Flush the logger after a step that was saved: a resumed run writes only later steps."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        is_step_start = batch_idx % trainer.accumulate_grad_batches == 0
        if is_step_start and trainer.global_step == self._last_global_step_saved:
            flush_logger(trainer.logger)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final step. Lightning skips it when a validation was due at the same step."""
        super().on_train_end(trainer, pl_module)
        self.save_now(trainer)
