"""Skip the optimizer step on all ranks when any rank's loss or gradient is NaN or Inf."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.errors import DivergenceError
from lit_hour.training.distributed import CrossRankMax
from lit_hour.training.optim import local_gradients
from lit_hour.types import Batch, tensor_fields

log = logging.getLogger(__name__)


class SkipNonFiniteSteps(Callback):
    """Skips steps with a non-finite loss or gradient, and stops the run when they are too many.

    A skipped step changes neither the weights nor the optimizer's state; its samples count as
    used. The number of skipped steps is saved in checkpoints, so a restart does not get a
    new budget.

    Raises:
        DivergenceError: more than `budget` steps were skipped. The batches of the last one are
            saved in `folder`.
    """

    def __init__(self, cross_rank_max: CrossRankMax, folder: Path, budget: int) -> None:
        self._cross_rank_max, self._folder, self._budget = cross_rank_max, folder, budget
        self._num_skipped = 0
        self._nonfinite_batches: list[Batch] = []
        self._latest_batch: Batch | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the number of skipped steps."""
        return {"num_skipped": self._num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of skipped steps."""
        self._num_skipped = state_dict["num_skipped"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keep a reference to the batch; at the start of a step, clear the non-finite ones."""
        self._latest_batch = batch
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._nonfinite_batches = []

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Keep the batch if its loss, `()`, is not finite."""
        if not math.isfinite(float(loss.detach())) and self._latest_batch is not None:
            self._nonfinite_batches.append(self._latest_batch)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Drop the gradients of a non-finite step; without gradients AdamW changes nothing."""
        norm = float(gradient_norm(pl_module))
        if not self._cross_rank_max.reduce(
            bool(self._nonfinite_batches) or not math.isfinite(norm)
        ):
            return
        optimizer.zero_grad(set_to_none=True)
        self._num_skipped += 1
        step = trainer.global_step + 1
        if self._num_skipped > self._budget:
            self._stop(step, trainer.global_rank, norm)
        if trainer.is_global_zero:
            log.warning(
                "Skipped step %d: its loss or gradient is not finite (%d of at most %d steps).",
                step,
                self._num_skipped,
                self._budget,
            )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log the number of skipped steps."""
        pl_module.log("train/skipped_steps", float(self._num_skipped), batch_size=1)

    def _stop(self, step: int, rank: int, norm: float) -> None:
        batches = self._nonfinite_batches
        # Where no loss was at fault, any rank's latest batch may have caused the gradient.
        if not self._cross_rank_max.reduce(bool(batches)) and self._latest_batch is not None:
            batches = [self._latest_batch]
        for number, batch in enumerate(batches):
            file = self._folder / f"step={step:06d}-rank={rank:04d}-{number}"
            dump_batch(batch, file, {"step": step, "gradient_norm": str(norm)})
        raise DivergenceError(
            f"Step {step} has a non-finite loss or gradient. {self._num_skipped} steps had one, and"
            f" training.max_skipped_steps={self._budget}. The batches are in {self._folder}; no"
            " checkpoint contains this step. Fix the samples, lower the learning rate or allow more"
            " skipped steps, then start the run again"
        )


def gradient_norm(module: torch.nn.Module) -> Tensor:
    """Return the norm of this rank's part of the gradient, `()`."""
    return torch.nn.utils.get_total_norm(local_gradients(module))  # ()


def dump_batch(batch: Batch, file: Path, details: dict[str, Any]) -> None:
    """Write a batch's tensors to FILE.safetensors, other fields and `details` to FILE.json."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = tensor_fields(batch)
    for index, visual in enumerate(batch.visuals):
        if visual is not None:
            tensors |= {
                f"visuals.{index}.{name}": tensor for name, tensor in tensor_fields(visual).items()
            }
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        f"{file}.safetensors",
    )
    texts = {
        "keys": batch.keys,
        "positions": batch.positions,
        "visual_of_text": batch.visual_of_text,
        "questions": [
            [asdict(question) for question in questions] for questions in batch.questions
        ],
        "skipped": [asdict(skipped) for skipped in batch.skipped],
    }
    Path(f"{file}.json").write_text(
        json.dumps(details | texts, indent=1, ensure_ascii=False), encoding="utf-8"
    )
