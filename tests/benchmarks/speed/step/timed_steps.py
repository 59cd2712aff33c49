"""Time training steps through Lightning as in `train.py`, with data and logging, by part.

Checkpoints are left out, because their frequency is a setting, and so is the comparison of the
vision encoder with that of stored features, because these are noise.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_hour.config.schema import Config
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.run_dir import RunDir
from lit_hour.training.callbacks.feature_check import FeatureEncoderCheck
from lit_hour.training.module import HourLLaVAModule
from lit_hour.training.signals import ShutdownSignal
from lit_hour.training.trainer_setup import build_callbacks, build_trainer, readable_messages
from lit_hour.types import Batch
from tests.benchmarks.speed.harness.matrix_rate import synchronize

LEFT_OUT = (ModelCheckpoint, FeatureEncoderCheck)


@dataclass
class Steps:
    """Recorded steps.

    Attributes:
        seconds: by part; they sum to the time from the end of a step to the end of the next.
        core_seconds: CPU time of this process without workers, for the whole step.
        losses: before the step.
        batches: on the device; all, or only the newest.
    """

    seconds: list[dict[str, float]] = field(default_factory=list)
    core_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)

    def mean_seconds(self, num_warmup: int) -> dict[str, float]:
        """Return the mean of each part over the steps after the first `num_warmup` ones."""
        counted = self.seconds[num_warmup:]
        return {
            part: sum(step.get(part, 0.0) for step in counted) / len(counted)
            for part in counted[-1]
        }


class Clock:
    """Stopwatch that attributes the time since the last lap to a part of the step."""

    def __init__(self, keep_batches: bool) -> None:
        self.steps = Steps()
        self._keep_batches = keep_batches
        self._parts: dict[str, float] = {}
        self._waited = 0.0
        self._lap_started = time.perf_counter()
        self._core = time.process_time()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._lap_started
        self._lap_started = now

    def start_batch(self, seconds_waited: float) -> None:
        """Split the time since the last step into waiting for data and logging."""
        self.lap("logging and callbacks")
        data = seconds_waited - self._waited
        self._waited = seconds_waited
        self._parts["logging and callbacks"] -= data
        self._parts["data"] = data

    def end_step(self, batch: Batch, loss: float) -> None:
        self.lap("logging and callbacks")
        self.steps.seconds.append(self._parts)
        core = time.process_time()
        self.steps.core_seconds.append(core - self._core)
        self._core = core
        self.steps.losses.append(loss)
        if not self._keep_batches:
            self.steps.batches.clear()
        self.steps.batches.append(batch)
        self._parts = {}


class FirstCallback(Callback):
    """Callback that runs before all others: the time so far belongs to Lightning or the model."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._clock.start_batch(trainer.train_dataloader.data_wait_seconds)  # type: ignore[union-attr]

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        synchronize(loss.device)
        self._clock.lap("forward")

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        synchronize(pl_module.device)
        self._clock.lap("backward")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        synchronize(pl_module.device)
        self._clock.lap("optimizer")


class LastCallback(Callback):
    """Callback that runs after all others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._clock.lap("logging and callbacks")

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        self._clock.lap("logging and callbacks")

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        self._clock.lap("logging and callbacks")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self._clock.end_step(batch, float(outputs["loss"]))


def take_steps(
    config: Config,
    processor: HourLLaVAProcessor,
    module: HourLLaVAModule,
    keep_batches: bool = True,
) -> Steps:
    """Take `training.max_steps` steps of one batch each."""
    run = RunDir.from_config(config.run)
    data = VideoQADataModule(config, processor)
    shutdown = ShutdownSignal()
    callbacks = build_callbacks(config, run, data, shutdown)
    trainer = build_trainer(config, run, data, callbacks, resume_step=0)
    clock = Clock(keep_batches)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    others = [callback for callback in callbacks if not isinstance(callback, LEFT_OUT)]
    trainer.callbacks = [FirstCallback(clock), *others, LastCallback(clock)]  # type: ignore[attr-defined]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with shutdown.installed(), readable_messages(), contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(module, datamodule=data)
    assert trainer.accumulate_grad_batches == 1, "steps of several batches are not supported"
    return clock.steps
