"""What happens around the steps: all callbacks of a run, and here progress of the data, speed, skipped and cut samples."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor

from lit_hour.config.schema import Config
from lit_hour.errors import ShardError
from lit_hour.run_dir import RunDir
from lit_hour.training.callbacks.checkpointing import BestCheckpoint, PeriodicCheckpoint
from lit_hour.training.callbacks.feature_check import FeatureEncoderCheck
from lit_hour.training.callbacks.nonfinite_guard import SkipNonFiniteSteps
from lit_hour.training.callbacks.preemption import Preemption
from lit_hour.training.callbacks.progress_bar import StepBar
from lit_hour.training.callbacks.val_plots import ValidationPictures
from lit_hour.training.distributed import CrossRankMax
from lit_hour.training.metrics import HaystackPlot
from lit_hour.types import Batch

log = logging.getLogger("lit_hour")


def build_callbacks(config: Config, run: RunDir) -> list[Callback]:
    """All callbacks of a run; Lightning itself moves those that save checkpoints to the end."""
    training = config.training
    agreement = CrossRankMax()
    periodic = PeriodicCheckpoint(
        training.save_every_n_steps,
        dirpath=run.checkpoints,
        filename="step={step:06d}",
        auto_insert_metric_name=False,
        save_top_k=training.save_total_limit,
        enable_version_counter=False,
    )
    return [
        FeatureEncoderCheck(),
        Preemption(agreement, periodic, training.max_requeues),
        SkipNonFiniteSteps(agreement, run.bad_batch, training.max_skipped_steps),
        StepLoss(training.log_every_n_steps),
        StepBar(),
        DataProgress(),
        SkippedSamples(run.skipped, config.data.max_bad_samples),
        CutTexts(config.text.max_tokens),
        Speed(training.log_every_n_steps),
        LearningRateMonitor("step"),
        ValidationPictures(training.num_val_images),
        *([HaystackPlot(run.evidence)] if training.num_val_images else []),
        BestCheckpoint(
            dirpath=run.checkpoints,
            filename="best",
            monitor="validation/loss",
            enable_version_counter=False,
        ),
        periodic,
    ]


class DataProgress(Callback):
    """Tells the data which samples have been trained on: those of finished steps, not those read ahead."""

    def __init__(self) -> None:
        self._steps_seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the step of the checkpoint."""
        self._steps_seen = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Move on when this batch finished a step."""
        if trainer.global_step > self._steps_seen:
            self._steps_seen = trainer.global_step
            trainer.datamodule.finish_step()  # type: ignore[attr-defined]


class StepLoss(Callback):
    """The loss of a step: the mean over its micro-batches and the ranks.

    Lightning would log it after the step was saved, and a run that is killed between the two and goes on lacks it.
    """

    def __init__(self, every_steps: int) -> None:
        self._every_steps = every_steps
        self._sum = torch.zeros(())

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Add the loss of a micro-batch, which Lightning has divided by their number; at the end of a step write the sum."""
        self._sum = self._sum.to(outputs["loss"].device) + outputs["loss"]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        loss = trainer.strategy.reduce(self._sum, reduce_op="mean")
        self._sum = torch.zeros(())
        pl_module.log("train/loss", loss, logger=False, batch_size=1)  # for the terminal
        if trainer.global_step % self._every_steps == 0 and trainer.is_global_zero:
            trainer.logger.log_metrics({"train/loss": float(loss)}, trainer.global_step - 1)  # type: ignore[union-attr]
            trainer.logger.experiment.flush()  # type: ignore[union-attr]


class SkippedSamples(Callback):
    """Lists videos that could not be read, counts each once, and stops the run when they are too many.

    Raises:
        ShardError: more than `budget` videos were skipped by this rank since this start.
    """

    def __init__(self, file: Path, budget: int) -> None:
        self._file = file
        self._budget = budget
        self._skipped_keys: set[str] = set()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Look at what training should have read."""
        self._account(batch)
        pl_module.log(
            "data/skipped_samples",
            float(len(self._skipped_keys)),
            sync_dist=True,
            reduce_fx="sum",
            batch_size=1,
        )

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at what validation should have read."""
        self._account(batch)

    def _account(self, batch: Batch) -> None:
        new = [skipped for skipped in batch.skipped if skipped.key not in self._skipped_keys]
        if not new:
            return
        self._skipped_keys.update(skipped.key for skipped in new)
        with self._file.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(asdict(skipped)) + "\n" for skipped in new)
        if len(self._skipped_keys) > self._budget:
            raise ShardError(
                f"{len(self._skipped_keys)} videos or pictures could not be read, data.max_bad_samples={self._budget} are allowed."
                f" The latest: {new[-1].reason}. All are listed in {self._file}"
            )


class CutTexts(Callback):
    """Counts the texts that lost their end because they are too long with their visual tokens, and tells of the first."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._was_told = False

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log how many there were since this start."""
        num_cut: int = pl_module.model.num_cut_texts  # type: ignore[assignment, union-attr]
        pl_module.log(
            "data/cut_texts", float(num_cut), sync_dist=True, reduce_fx="sum", batch_size=1
        )
        if num_cut and not self._was_told:
            self._was_told = True
            log.warning(
                "\nwarning: a text about %s is longer than text.max_tokens=%d with its visual tokens and lost its end;"
                " data/cut_texts in TensorBoard counts such texts. Allow more tokens, or ask less at once"
                " (data.questions_per_sample)",
                " or ".join(batch.keys),
                self._max_tokens,
            )


class Speed(Callback):
    """Tokens and frames per second over all ranks, and the share of time spent waiting for data."""

    def __init__(self, every_steps: int) -> None:
        self._every_steps = every_steps
        self._restart(0.0)

    def _restart(self, seconds_waited: float) -> None:
        self._started = time.perf_counter()
        self._waited_before = seconds_waited
        self._num_frames = self._num_tokens = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart(trainer.datamodule.seconds_waited)  # type: ignore[attr-defined]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation does not count: start again."""
        if not trainer.sanity_checking:
            self._restart(trainer.datamodule.seconds_waited)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count, and log every some steps."""
        self._num_frames += sum(len(visual) for visual in batch.visuals if visual is not None)
        self._num_tokens += int(batch.attention_mask.sum())
        if trainer.global_step % self._every_steps or not self._num_tokens:
            return
        seconds = time.perf_counter() - self._started
        waited = trainer.datamodule.seconds_waited - self._waited_before  # type: ignore[attr-defined]
        pl_module.log(
            "speed/frames_per_second",
            self._num_frames / seconds,
            sync_dist=True,
            reduce_fx="sum",
            batch_size=1,
        )
        pl_module.log(
            "speed/text_tokens_per_second",
            self._num_tokens / seconds,
            sync_dist=True,
            reduce_fx="sum",
            batch_size=1,
        )
        pl_module.log(
            "speed/share_waiting_for_data", waited / seconds, sync_dist=True, batch_size=1
        )
        self._restart(trainer.datamodule.seconds_waited)  # type: ignore[attr-defined]
