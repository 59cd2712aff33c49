"""Log throughput, utilization, padding and peak memory."""

from __future__ import annotations

import time
from resource import RUSAGE_SELF, getrusage
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from lit_hour.config.schema import Config
from lit_hour.training.callbacks.logging import is_record
from lit_hour.training.flops import FlopCounter
from lit_hour.types import Batch


class ThroughputLogger(Callback):
    """Logs frames and text tokens per second over all ranks, and the share of time without data.

    With `training.peak_tflops` also the model FLOPs utilization (MFU): the mean over the ranks of
    operations per second over the peak.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._flop_counter: FlopCounter | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare the count of operations, and start the clock."""
        if self._config.training.peak_tflops:
            self._flop_counter = FlopCounter(self._config, pl_module.model)  # type: ignore[arg-type]
        self._restart(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restart the clock, so that validation does not count."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._restart(trainer)

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
        if self._flop_counter is not None:
            self._flops += self._flop_counter.count(
                batch, outputs["tokens_per_text"], outputs["targets_per_text"]
            )
        if not is_record(trainer, batch_idx) or not self._num_tokens:
            return
        seconds = time.perf_counter() - self._start
        waited = trainer.train_dataloader.data_wait_seconds - self._waited_before  # type: ignore[union-attr]
        rates = {
            "throughput/frames_per_second": self._num_frames / seconds,
            "throughput/text_tokens_per_second": self._num_tokens / seconds,
        }
        pl_module.log_dict(rates, sync_dist=True, reduce_fx="sum", batch_size=1)
        shares = {"throughput/data_wait_frac": waited / seconds}
        if self._flop_counter is not None:
            peak = self._config.training.peak_tflops * 1e12
            shares["throughput/mfu"] = self._flops / seconds / peak
        pl_module.log_dict(shares, sync_dist=True, batch_size=1)
        self._restart(trainer)

    def _restart(self, trainer: L.Trainer) -> None:
        self._start = time.perf_counter()
        self._waited_before = trainer.train_dataloader.data_wait_seconds  # type: ignore[union-attr]
        self._num_frames = self._num_tokens = 0
        self._flops = 0.0


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
        if not is_record(trainer, batch_idx):
            return
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum")  # (2,)
        if trainer.is_global_zero:
            share = float(counts[1] / counts[0].clamp(min=1))
            trainer.logger.log_metrics({"data/padding_share": share}, trainer.global_step - 1)  # type: ignore[union-attr]
        self.on_train_start(trainer, pl_module)


class PeakMemoryLogger(Callback):
    """Logs the largest memory that any rank has used so far, in GB.

    On a GPU these are the tensors that PyTorch has allocated, on a CPU the resident memory of the
    process without its data workers.
    """

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log the peak every `Trainer.log_every_n_steps` steps."""
        if not is_record(trainer, batch_idx):
            return
        if pl_module.device.type == "cuda":
            num_bytes = torch.cuda.max_memory_allocated(pl_module.device)
        else:
            num_bytes = 1024 * getrusage(RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
        pl_module.log(
            "memory/peak_gb", num_bytes / 1e9, sync_dist=True, reduce_fx="max", batch_size=1
        )
