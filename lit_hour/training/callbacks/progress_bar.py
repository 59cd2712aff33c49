"""A line on the terminal while a run goes on: steps done, time left, loss, and the latest accuracy."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


class StepBar(ProgressBar):
    """Counts optimizer steps of the whole run, as everything else here does, and not Lightning's epochs of batches."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._is_shown = True

    def disable(self) -> None:
        """Lightning calls this on every rank but the first."""
        self._is_shown = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the step of the checkpoint."""
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            file=sys.stdout,
            disable=not self._is_shown,
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show the loss; move on when a step is finished."""
        if self._bar is None:
            return
        metrics = trainer.callback_metrics
        shown = {
            name: f"{float(metrics[key]):.3f}"
            for name, key in (
                ("loss", "train/loss"),
                ("accuracy", "validation/accuracy/multiple_choice"),
            )
            if key in metrics
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what takes so long."""
        if self._bar is not None:
            self._bar.set_description("validating")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Back to training."""
        if self._bar is not None:
            self._bar.set_description("training")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the finished line."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the line of a run that broke off."""
        self.on_train_end(trainer, pl_module)
