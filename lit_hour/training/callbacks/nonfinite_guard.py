"""The losses and gradients of a step -> the step is taken, or left out by all ranks when one of them is no finite number."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_hour.errors import DivergenceError
from lit_hour.training.distributed import CrossRankMax
from lit_hour.types import Batch, Visual

log = logging.getLogger("lit_hour")


class SkipNonFiniteSteps(Callback):
    """Leaves out steps whose loss or gradient norm is not finite, counts them, and stops the run when they are too many.

    A step that is left out changes neither weights nor the optimizer's state; its samples count as trained on. The count
    goes into the checkpoints: a run that starts again does not get a new budget.

    Raises:
        DivergenceError: more than `budget` steps were left out; the batches of the last one lie in `folder`.
    """

    def __init__(self, agreement: CrossRankMax, folder: Path, budget: int) -> None:
        self._agreement, self._folder, self._budget = agreement, folder, budget
        self._num_skipped = 0
        self._suspects: list[Batch] = []
        self._latest: Batch | None = None

    def state_dict(self) -> dict[str, Any]:
        """The count, for the checkpoint."""
        return {"num_skipped": self._num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The count of the starts before."""
        self._num_skipped = state_dict["num_skipped"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the batch at hand while it is computed; a new step begins without suspects."""
        self._latest = batch
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._suspects = []

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Remember the batch if its loss is not finite."""
        if not math.isfinite(float(loss.detach())) and self._latest is not None:
            self._suspects.append(self._latest)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Before clipping: without gradients AdamW changes nothing."""
        norm = float(gradient_norm(pl_module))
        if not self._agreement.reduce(bool(self._suspects) or not math.isfinite(norm)):
            return
        optimizer.zero_grad(set_to_none=True)
        self._num_skipped += 1
        step = trainer.global_step + 1
        if self._num_skipped > self._budget:
            self._stop(step, trainer.global_rank, norm)
        if trainer.is_global_zero:
            log.warning(
                "step %d is left out, its loss or gradient is not finite: %d of at most %d",
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
        """Log how many steps were left out by now."""
        pl_module.log("train/skipped_steps", float(self._num_skipped), batch_size=1)

    def _stop(self, step: int, rank: int, norm: float) -> None:
        is_known_where = self._agreement.reduce(bool(self._suspects))
        latest = [] if is_known_where or self._latest is None else [self._latest]
        for number, batch in enumerate(self._suspects or latest):
            dump_batch(
                batch,
                self._folder / f"step={step:06d}-rank={rank:04d}-{number}",
                {"step": step, "gradient_norm": str(norm)},
            )
        raise DivergenceError(
            f"step {step}: the loss or the gradient is not finite, which is so for {self._num_skipped} steps by now and"
            f" training.max_skipped_steps={self._budget} are allowed. The batches lie in {self._folder}; no checkpoint holds"
            " this step. Mend the samples or lower the learning rate, or allow more, and start again"
        )


def gradient_norm(module: torch.nn.Module) -> Tensor:
    """`()` of this rank's part of the gradient."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(
        [each.to_local() if isinstance(each, DTensor) else each for each in gradients]
    )  # ()


def dump_batch(batch: Batch, file: Path, more: dict[str, Any]) -> None:
    """Write the tensors of a batch to `file`.safetensors, and what else it holds to `file`.json."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(batch)
    for place, visual in enumerate(batch.visuals):
        tensors |= {
            f"visuals.{place}.{name}": tensor for name, tensor in tensors_of(visual).items()
        }
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        f"{file}.safetensors",
    )
    words = {
        "keys": batch.keys,
        "positions": batch.positions,
        "visual_of_text": batch.visual_of_text,
        "questions": [
            [asdict(question) for question in questions] for questions in batch.questions
        ],
        "skipped": [asdict(skipped) for skipped in batch.skipped],
    }
    Path(f"{file}.json").write_text(
        json.dumps(more | words, indent=1, ensure_ascii=False), encoding="utf-8"
    )


def tensors_of(record: Batch | Visual | None) -> dict[str, Tensor]:
    """The tensors of a batch, of a video or of pictures by the names that they have there."""
    if record is None:
        return {}
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
