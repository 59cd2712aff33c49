"""When a run saves a checkpoint: every some steps, at the end, when it is told to leave, and when it was never so good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_hour.types import Batch


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the lowest validation loss."""


class PeriodicCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoints; when training ends, `last.ckpt` is its last step."""

    def __init__(self, every_steps: int, **settings: Any) -> None:
        super().__init__(
            every_n_train_steps=every_steps, monitor="step", mode="max", save_last=True, **settings
        )

    def save_now(self, trainer: L.Trainer) -> None:
        """Save this step to `last.ckpt`, unless it is there; called by all ranks."""
        if trainer.global_step != self._last_global_step_saved:
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")
            self._last_global_step_saved = trainer.global_step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that continues has saved this step: the first micro-batch of the next one is no reason to save it again."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """After a step that was saved, put its curves on disk too: a start from there writes only what comes after it."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if (
            trainer.global_step == self._last_global_step_saved
            and batch_idx % trainer.accumulate_grad_batches == 0
        ):
            trainer.logger.experiment.flush()  # type: ignore[union-attr]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last step, of which Lightning leaves out those that it wants to validate first and then does not."""
        super().on_train_end(trainer, pl_module)
        self.save_now(trainer)
