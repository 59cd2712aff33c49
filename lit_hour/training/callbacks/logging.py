"""Log the loss, truncated texts and bad samples, and draw the progress bar.

`BadSampleBudget` also stops the run when too many samples cannot be read.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ProgressBar
from torch import Tensor
from tqdm import tqdm

from lit_hour.errors import ShardError, list_first
from lit_hour.training.distributed import gather_texts
from lit_hour.training.loggers import flush_logger
from lit_hour.types import Batch

log = logging.getLogger(__name__)


class LossLogger(Callback):
    """Logs the loss of each step, the mean over its learned tokens on all ranks, and the gradient.

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
        """Log the loss and the norm of the gradient after the last micro-batch of a step."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        loss: Tensor = pl_module.step_loss  # type: ignore[assignment]  # ()
        pl_module.log("train/loss", loss, logger=False, batch_size=1)  # for the progress bar
        if is_record(trainer, batch_idx) and trainer.is_global_zero:
            norm: Tensor = pl_module.step_gradient_norm  # type: ignore[assignment]  # ()
            metrics = {"train/loss": float(loss), "train/gradient_norm": float(norm)}
            means: dict[str, float] = pl_module.step_metrics  # type: ignore[assignment]
            metrics |= {f"train/{name}": mean for name, mean in means.items()}
            trainer.logger.log_metrics(metrics, trainer.global_step - 1)  # type: ignore[union-attr]
            flush_logger(trainer.logger)


class RankZeroWarning:
    """A warning that any rank may cause, and rank zero logs once."""

    def __init__(self) -> None:
        self._message = ""  # of this rank
        self._is_logged = False

    def add(self, message: str) -> None:
        """Keep the first message of this rank."""
        self._message = self._message or message

    def log_once(self, trainer: L.Trainer) -> None:
        """Log the message of the lowest rank that has one. All ranks have to call this together."""
        if self._is_logged:
            return
        messages = list(filter(None, gather_texts(self._message)))
        self._is_logged = bool(messages)
        if messages and trainer.is_global_zero:
            others = f" {len(messages)} ranks have such a batch." if len(messages) > 1 else ""
            log.warning("%s%s", messages[0], others)


class TokenBudgetCheck(Callback):
    """Warns about the first batch of several samples that exceeds `data.tokens_per_batch`."""

    def __init__(self, tokens_per_batch: int) -> None:
        self._tokens_per_batch = tokens_per_batch
        self._warning = RankZeroWarning()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Compare the tokens that the language model computed with the budget."""
        num_tokens = int(outputs["num_tokens"]) if len(batch.keys) > 1 else 0
        if num_tokens > self._tokens_per_batch:
            self._warning.add(
                f"The batch of {list_first(batch.keys)} has {num_tokens} tokens, more than"
                f" data.tokens_per_batch={self._tokens_per_batch}. Its texts have fewer bytes per"
                " token than"
                f" data.min_bytes_per_token={pl_module.config.data.min_bytes_per_token:g}, or its"  # type: ignore[union-attr]
                " images more tokens than those of the published vision encoder. Lower either"
                " setting."
            )
        if is_record(trainer, batch_idx):
            self._warning.log_once(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the warning of a run that ends before its next record."""
        self._warning.log_once(trainer)


class TruncationLogger(Callback):
    """Counts texts that were truncated to `text.max_tokens`, and warns about the first one."""

    def __init__(self) -> None:
        self._num_truncated = 0
        self._warning = RankZeroWarning()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log how many texts were truncated on all ranks since this start of the run."""
        self._num_truncated += outputs["num_truncated"]
        pl_module.log(
            "data/truncated_texts",
            float(self._num_truncated),
            sync_dist=True,
            reduce_fx="sum",
            batch_size=1,
        )
        if outputs["num_truncated"]:
            self._warning.add(
                f"A text of {' or '.join(batch.keys)} has more than"
                f" text.max_tokens={pl_module.config.text.max_tokens} tokens with its visual"  # type: ignore[union-attr]
                " tokens and was truncated. data/truncated_texts in the logger counts such texts."
                " Raise text.max_tokens or lower data.questions_per_sample."
            )
        if is_record(trainer, batch_idx):
            self._warning.log_once(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the warning of a run that ends before its next record."""
        self._warning.log_once(trainer)


def is_record(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether a step that the logger records ends with this micro-batch."""
    is_end = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return is_end and trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]


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
