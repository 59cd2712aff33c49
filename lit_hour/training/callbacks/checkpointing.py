"""Save the newest checkpoints every N steps, at the end of training and on preemption."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_hour.types import Batch


class PeriodicCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoints; `last.ckpt` is always the newest, in the end the final step.

    `_last_global_step_saved` is ModelCheckpoint's own: it does not save the same step twice.
    """

    def save_now(self, trainer: L.Trainer) -> None:
        """Save this step to `last.ckpt` unless it is saved already. All ranks have to call this."""
        if trainer.global_step != self._last_global_step_saved:
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")
            self._last_global_step_saved = trainer.global_step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark the step of the checkpoint that training resumes from as saved."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Flush TensorBoard after a step that was saved: a resumed run writes only later steps."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        is_step_start = batch_idx % trainer.accumulate_grad_batches == 0
        if is_step_start and trainer.global_step == self._last_global_step_saved:
            trainer.logger.experiment.flush()  # type: ignore[union-attr]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final step. Lightning skips it when a validation was due at the same step."""
        super().on_train_end(trainer, pl_module)
        self.save_now(trainer)
