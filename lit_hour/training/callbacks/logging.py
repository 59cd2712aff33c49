"""Log loss, throughput, padding, truncated texts and bad samples, and draw the progress bar.

`BadSampleBudget` also stops the run when too many samples cannot be read.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from tqdm import tqdm

from lit_hour.errors import ShardError, list_first
from lit_hour.types import Batch

log = logging.getLogger(__name__)


class LossLogger(Callback):
    """Logs the loss of each step: the mean over its learned tokens on all ranks.

    Lightning would log it after the step's checkpoint was saved. A run that is killed between the
    two and resumes would then lack the loss of that step.
    """

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log the loss after the last micro-batch of a step."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        loss: Tensor = pl_module.step_loss  # type: ignore[assignment]  # ()
        pl_module.log("train/loss", loss, logger=False, batch_size=1)  # for the progress bar
        if trainer.global_step % trainer.log_every_n_steps == 0 and trainer.is_global_zero:  # type: ignore[attr-defined]
            trainer.logger.log_metrics({"train/loss": float(loss)}, trainer.global_step - 1)  # type: ignore[union-attr]
            trainer.logger.experiment.flush()  # type: ignore[union-attr]


class ThroughputLogger(Callback):
    """Logs frames and text tokens per second over all ranks, and the share of time without data."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and the counts."""
        self._start = time.perf_counter()
        self._waited_before = trainer.train_dataloader.data_wait_seconds  # type: ignore[union-attr]
        self._num_frames = self._num_tokens = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock, so that validation does not count."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count frames and tokens, and log the rates every `Trainer.log_every_n_steps` steps."""
        self._num_frames += sum(len(visual) for visual in batch.visuals if visual is not None)
        self._num_tokens += int(batch.attention_mask.sum())
        if trainer.global_step % trainer.log_every_n_steps or not self._num_tokens:  # type: ignore[attr-defined]
            return
        seconds = time.perf_counter() - self._start
        waited = trainer.train_dataloader.data_wait_seconds - self._waited_before  # type: ignore[union-attr]
        rates = {
            "throughput/frames_per_second": self._num_frames / seconds,
            "throughput/text_tokens_per_second": self._num_tokens / seconds,
        }
        pl_module.log_dict(rates, sync_dist=True, reduce_fx="sum", batch_size=1)
        pl_module.log("throughput/data_wait_frac", waited / seconds, sync_dist=True, batch_size=1)
        self.on_train_start(trainer, pl_module)


class PaddingLogger(Callback):
    """Logs the share of padding in what the language models of all ranks compute.

    With `training.packing` there is none.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the counts."""
        self._counts = torch.zeros(2, device=pl_module.device)  # texts and padding, padding

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count tokens, and log the share every `Trainer.log_every_n_steps` steps."""
        self._counts += torch.stack([outputs["num_tokens"], outputs["num_padding_tokens"]])  # (2,)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum")  # (2,)
        if trainer.is_global_zero:
            share = float(counts[1] / counts[0].clamp(min=1))
            trainer.logger.log_metrics({"data/padding_share": share}, trainer.global_step - 1)  # type: ignore[union-attr]
        self.on_train_start(trainer, pl_module)


class TokenBudgetCheck(Callback):
    """Warns at the first batch of several samples that exceeds `data.tokens_per_batch`."""

    def __init__(self, tokens_per_batch: int) -> None:
        self._tokens_per_batch = tokens_per_batch
        self._has_warned = False

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Compare the tokens that the language model computed with the budget."""
        if self._has_warned or len(batch.keys) == 1:
            return
        if (num_tokens := int(outputs["num_tokens"])) > self._tokens_per_batch:
            self._has_warned = True
            log.warning(
                "The batch of %s has %d tokens, more than data.tokens_per_batch=%d. Its texts have"
                " fewer bytes per token than data.min_bytes_per_token=%g, or its images more tokens"
                " than those of the published vision encoder. Lower either setting.",
                list_first(batch.keys),
                num_tokens,
                self._tokens_per_batch,
                pl_module.config.data.min_bytes_per_token,  # type: ignore[union-attr]
            )


class TruncationLogger(Callback):
    """Counts texts that were truncated to `text.max_tokens`, and warns at the first one."""

    _num_truncated = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log how many texts were truncated since this start of the run."""
        is_first = not self._num_truncated
        self._num_truncated += outputs["num_truncated"]
        pl_module.log(
            "data/truncated_texts",
            float(self._num_truncated),
            sync_dist=True,
            reduce_fx="sum",
            batch_size=1,
        )
        if self._num_truncated and is_first:
            log.warning(
                "A text of %s has more than text.max_tokens=%d tokens with its visual tokens and"
                " was truncated. data/truncated_texts in TensorBoard counts such texts. Raise"
                " text.max_tokens or lower data.questions_per_sample.",
                " or ".join(batch.keys),
                pl_module.config.text.max_tokens,  # type: ignore[union-attr]
            )


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


class StepProgressBar(ProgressBar):
    """Progress bar over the optimizer steps of the whole run, with loss and latest accuracy."""

    _bar: tqdm | None = None
    _is_enabled = True

    def disable(self) -> None:
        """Hide the bar. Lightning calls this on every rank but rank zero."""
        self._is_enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step of the checkpoint."""
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            file=sys.stdout,
            disable=not self._is_enabled,
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show the latest metrics and advance to the current step."""
        if self._bar is None:
            return
        metrics = trainer.callback_metrics
        keys = {"loss": "train/loss", "accuracy": "val/acc/multiple_choice"}
        shown = {name: f"{float(metrics[key]):.3f}" for name, key in keys.items() if key in metrics}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Label the bar "validating"."""
        if self._bar is not None:
            self._bar.set_description("validating")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Label the bar "training" again."""
        if self._bar is not None:
            self._bar.set_description("training")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar and leave its last line."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar of a run that fails."""
        self.on_train_end(trainer, pl_module)
