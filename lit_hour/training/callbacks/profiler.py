"""Record a few steps with torch's profiler, as a trace that browsers show."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile, schedule

from lit_hour.config.training import ProfilerConfig
from lit_hour.errors import ConfigError
from lit_hour.io.atomic import atomic_path, atomic_write_text
from lit_hour.types import Batch

NUM_ROWS = 30  # operations in the table beside a trace

log = logging.getLogger(__name__)


class StepProfiler(Callback):
    """Records the operations of some steps on rank zero, after a step that warms the profiler up.

    `step=000010.json.gz` is a trace for ui.perfetto.dev or chrome://tracing, `step=000010.txt` a
    table of the operations that take the most time. A run that resumes after the step before the
    first one records none.
    """

    def __init__(self, config: ProfilerConfig, folder: Path, num_steps: int) -> None:
        """Take the settings, the folder of the traces, and the number of steps of the run.

        Raises:
            ConfigError: the run ends before the steps.
        """
        last_step = config.first_step + config.num_steps - 1
        if last_step > num_steps:
            raise ConfigError(
                f"training.profiler records steps {config.first_step} to {last_step}, but the run"
                f" has {num_steps}. Lower training.profiler.first_step or num_steps, or raise"
                " training.max_steps."
            )
        self._config, self._folder = config, folder
        self._profiler: profile | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start before the first micro-batch of the step before the first one."""
        is_start = batch_idx % trainer.accumulate_grad_batches == 0
        if not trainer.is_global_zero or not is_start:
            return
        if trainer.global_step != self._config.first_step - 2:
            return
        activities = [ProfilerActivity.CPU]
        if pl_module.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=1, active=self._config.num_steps, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self._profiler.start()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the step after its last micro-batch, and write the trace after the last step."""
        if self._profiler is None or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # kernels of a step belong to its record
        self._profiler.step()
        if trainer.global_step == self._config.first_step + self._config.num_steps - 1:
            self._stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write what was recorded before an error or a signal ended the run."""
        self._stop()

    def _stop(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()

    def _write(self, profiler: profile) -> None:
        """Write the trace and the table; a full disk costs these, and not the run."""
        trace = self._folder / f"step={self._config.first_step:06d}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(trace) as temp:
                profiler.export_chrome_trace(f"{temp}.gz")  # compressed because of its name
                os.replace(f"{temp}.gz", temp)
            table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=NUM_ROWS)
            atomic_write_text(trace.with_name(trace.name.removesuffix(".json.gz") + ".txt"), table)
        except OSError as error:
            log.warning("The trace %s was not written: %s.", trace, error)
            return
        log.info("Trace of the profiled steps: %s. View it at ui.perfetto.dev.", trace)
