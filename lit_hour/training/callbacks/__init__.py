"""Lightning callbacks of a training run. Entry point: `build_callbacks`."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint

from lit_hour.config.schema import Config
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.run_dir import RunDir
from lit_hour.training.callbacks.bad_samples import BadSampleBudget
from lit_hour.training.callbacks.checkpointing import PeriodicCheckpoint
from lit_hour.training.callbacks.feature_check import FeatureEncoderCheck
from lit_hour.training.callbacks.logging import (
    LossLogger,
    StepProgressBar,
    ThroughputLogger,
    TruncationLogger,
)
from lit_hour.training.callbacks.nonfinite_guard import SkipNonFiniteSteps
from lit_hour.training.callbacks.preemption import Preemption
from lit_hour.training.callbacks.val_plots import ValidationPlots
from lit_hour.training.distributed import CrossRankMax
from lit_hour.training.signals import ShutdownSignal


def build_callbacks(
    config: Config, run: RunDir, data: VideoQADataModule, shutdown: ShutdownSignal
) -> list[Callback]:
    """Return the callbacks of a run. Lightning moves the checkpoint callbacks to the end."""
    training = config.training
    cross_rank_max = CrossRankMax()
    periodic = PeriodicCheckpoint(
        training.save_every_n_steps,
        dirpath=run.checkpoints,
        filename="step={step:06d}",
        auto_insert_metric_name=False,
        save_top_k=training.save_total_limit,
        enable_version_counter=False,
    )
    best = ModelCheckpoint(
        dirpath=run.checkpoints, filename="best", monitor="val/loss", enable_version_counter=False
    )
    callbacks: list[Callback] = [
        Preemption(shutdown, cross_rank_max, periodic, training.max_requeues),
        SkipNonFiniteSteps(cross_rank_max, run.nonfinite_batches, training.max_skipped_steps),
        LossLogger(training.log_every_n_steps),
        StepProgressBar(),
        BadSampleBudget(run.bad_samples, config.data.max_bad_samples),
        TruncationLogger(config.text.max_tokens),
        ThroughputLogger(training.log_every_n_steps),
        LearningRateMonitor("step"),
        best,
        periodic,
    ]
    if training.num_val_images:
        callbacks.append(ValidationPlots(training.num_val_images, run.haystack_plot))
    if data.feature_metadata:
        callbacks.insert(0, FeatureEncoderCheck(data.feature_metadata))
    return callbacks
