"""Build Lightning's Trainer: devices, precision, strategy, plugins and callbacks.

`build_callbacks` and `build_trainer` are for training, `build_predict_trainer` is for `predict`.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import nn

from lit_hour.config.schema import Config
from lit_hour.config.training import TrainingConfig
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.data.features.source_frames import SourceFrames
from lit_hour.errors import ConfigError, RunError
from lit_hour.run_dir import RunDir
from lit_hour.training.callbacks.checkpointing import PeriodicCheckpoint
from lit_hour.training.callbacks.efficiency import (
    PaddingLogger,
    PeakMemoryLogger,
    ThroughputLogger,
)
from lit_hour.training.callbacks.feature_check import FeatureEncoderCheck
from lit_hour.training.callbacks.logging import (
    BadSampleBudget,
    LossLogger,
    StepProgressBar,
    TokenBudgetCheck,
    TruncationLogger,
)
from lit_hour.training.callbacks.nonfinite_guard import SkipNonFiniteSteps
from lit_hour.training.callbacks.preemption import Preemption
from lit_hour.training.callbacks.profiler import StepProfiler
from lit_hour.training.callbacks.val_plots import ValidationPlots
from lit_hour.training.checkpoints.checkpoint_io import AtomicCheckpointIO
from lit_hour.training.distributed import CrossRankMax
from lit_hour.training.loggers import build_logger
from lit_hour.training.objectives.table import build_objective
from lit_hour.training.parallelize import TRUE_BF16, ShardedStrategy
from lit_hour.training.signals import ShutdownSignal

IGNORED_WARNINGS = (  # regular expressions of Lightning's warnings that do not apply here
    ".*your dataloader is not resumable",  # the data module starts its loader at the right sample
    ".*does not have many workers",  # throughput/data_wait_frac shows whether there are too few
    ".*exists and is not empty",  # true of every run that resumes
    ".*sync_dist=True",  # torchmetrics has already reduced the scores over the ranks
    ".*predict returned None",  # the modules store their predictions themselves
    ".*LeafSpec",
    ".*`srun` command is available on your system but is not used",  # a run outside of a job
    r".*Found \d+ module\(s\) in eval mode at the start of training",  # batch norms of the tower
    ".*smaller than the logging interval",  # names an argument of Trainer, not a setting
)
WORKER_LOST = (
    "A data worker was killed, perhaps for lack of memory. Fewer data.num_workers need less of it"
)
SHARED_MEMORY_FULL = (
    "/dev/shm is full. Enlarge it (docker run --shm-size), or raise data.frame_arena_gb: arenas are"
    " not part of it"
)
RANK_LOST = "Another rank of this run has exited. Its output says why, unless it was killed"
RESUME_ADVICE = "Start the run again: it resumes from its newest checkpoint"
CRASH_SIGNS = {  # messages by a part of torch's error text
    "unable to allocate shared memory": SHARED_MEMORY_FULL,
    "DataLoader worker (pid": WORKER_LOST,
    "Connection reset by peer": RANK_LOST,
    "Connection closed by peer": RANK_LOST,
    "Broken pipe": RANK_LOST,
}


def build_callbacks(
    config: Config, run: RunDir, data: VideoQADataModule, shutdown: ShutdownSignal
) -> list[Callback]:
    """Return the callbacks of a run. Lightning moves the checkpoint callbacks to the end."""
    training = config.training
    cross_rank_max = CrossRankMax()
    periodic = PeriodicCheckpoint(
        dirpath=run.checkpoints,
        filename="step={step:06d}",
        monitor="step",
        mode="max",
        save_last=True,
        save_top_k=training.save_total_limit,
        every_n_train_steps=training.save_every_n_steps,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    monitor, mode = build_objective(config).monitor
    best = ModelCheckpoint(
        dirpath=run.checkpoints,
        filename="best",
        monitor=monitor,
        mode=mode,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [
        Preemption(shutdown, cross_rank_max, periodic, training.max_requeues),
        SkipNonFiniteSteps(cross_rank_max, run.nonfinite_batches, training.max_skipped_steps),
        LossLogger(),
        StepProgressBar(),
        BadSampleBudget(run.bad_samples, config.data.max_bad_samples),
        TruncationLogger(),
        PaddingLogger(),
        ThroughputLogger(config),
        PeakMemoryLogger(),
        LearningRateMonitor("step"),
        best,
        periodic,
    ]
    if config.data.tokens_per_batch:
        callbacks.append(TokenBudgetCheck(config.data.tokens_per_batch))
    if training.num_val_images:
        frames = SourceFrames(list(data.val_sources.values()), config)
        callbacks.append(ValidationPlots(training.num_val_images, run.haystack_plot, frames))
    if training.profiler.num_steps:
        callbacks.append(StepProfiler(training.profiler, run.profile, data.num_steps))
    metadata_of_shard = {
        path: metadata
        for shards in (*data.sources.values(), *data.val_sources.values())
        for path, metadata in shards.feature_metadata().items()
    }
    if metadata_of_shard:
        callbacks.insert(0, FeatureEncoderCheck(metadata_of_shard))
    return callbacks


def build_trainer(
    config: Config,
    run: RunDir,
    data: VideoQADataModule,
    callbacks: list[Callback],
    resume_step: int,
) -> L.Trainer:
    """Build the Trainer of a run. It counts steps; one of its epochs spans the whole run.

    Args:
        config: the settings.
        run: where the logger writes.
        data: gives the number of steps and micro-batches.
        callbacks: see `build_callbacks`.
        resume_step: the logger drops this and later steps of an earlier start, which was
            interrupted after its last checkpoint.
    """
    training = config.training
    is_sharded = training.strategy == "fsdp"
    trainer = L.Trainer(
        accelerator=training.accelerator,
        devices=training.devices,
        num_nodes=training.num_nodes,
        strategy=ShardedStrategy(config) if is_sharded else training.strategy,
        precision=None if training.precision == TRUE_BF16 else training.precision,
        plugins=[AtomicCheckpointIO(config), *_plugins(training)],
        # FSDP reuses parameters that were gathered during validation, and inference tensors cannot
        # take part in autograd.
        inference_mode=not is_sharded,
        max_steps=data.num_steps,
        gradient_clip_val=training.gradient_clip_norm or None,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=training.log_every_n_steps,
        logger=build_logger(config, run, resume_step),
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    # Both are counted in micro-batches, and their number per step depends on the number of ranks.
    trainer.accumulate_grad_batches = data.micro_batches_per_step(trainer.world_size)
    trainer.val_check_interval = (
        min(training.val_every_n_steps, data.num_steps) * trainer.accumulate_grad_batches
    )
    return trainer


def build_predict_trainer(training: TrainingConfig) -> L.Trainer:
    """Build a Trainer for `predict`; every rank holds the whole module, with any strategy."""
    return L.Trainer(
        accelerator=training.accelerator,
        devices=training.devices,
        num_nodes=training.num_nodes,
        precision=None if training.precision == TRUE_BF16 else training.precision,
        plugins=_plugins(training),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def check_accelerator(training: TrainingConfig) -> None:
    """Check that this machine has the accelerator and the number of devices that the settings name.

    Raises:
        ConfigError: it does not.
    """
    if training.accelerator != "gpu":
        return
    num_gpus = CUDAAccelerator.auto_device_count() or int(MPSAccelerator.is_available())
    if not num_gpus:
        raise ConfigError(
            "training.accelerator=gpu, but PyTorch finds no GPU here. Set auto or cpu."
        )
    if training.devices.isdigit() and int(training.devices) > num_gpus:
        raise ConfigError(
            f"training.devices={training.devices}, but this machine has {num_gpus}"
            f" GPU{'s' * (num_gpus > 1)}. Set {num_gpus} or auto."
        )


def check_quantization(config: Config) -> None:
    """Check that what `model.llm.quantize` quantizes is frozen, not saved, and not sharded.

    Raises:
        ConfigError: it is not.
    """
    llm, training = config.model.llm, config.training
    if llm.quantize == "none":
        return
    problem = remedy = ""
    if training.learning_rate.llm > 0 and not llm.lora.rank:
        rate = training.learning_rate.llm
        problem = f"a frozen language model, not training.learning_rate.llm={rate:g}"
        remedy = "model.llm.lora.rank=16 for adapters, or the rate to 0"
    elif not (llm.path or training.init_from):
        problem, remedy = "a pretrained language model", "model.llm.path or training.init_from"
    elif training.save_weights != "learned":
        problem, remedy = "checkpoints without these weights", "training.save_weights=learned"
    elif training.strategy == "fsdp":
        problem, remedy = "whole weights, not training.strategy=fsdp", "training.strategy=auto"
    if problem:
        raise ConfigError(f"model.llm.quantize={llm.quantize} needs {problem}. Set {remedy}.")


@contextmanager
def readable_messages(advice: str = RESUME_ADVICE) -> Iterator[None]:
    """Hide Lightning's warnings that do not apply, and explain a lost rank or worker in one line.

    Args:
        advice: what to do next; ends the message about a lost rank or worker.

    Raises:
        RunError: a rank or a data worker died while this process waited for it.
    """
    with warnings.catch_warnings():
        for message in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            if message := classify_crash(error):
                raise RunError(f"{message}. {advice}") from error
            raise


def classify_crash(error: RuntimeError | OSError | EOFError) -> str:
    """Return what a crash of a worker or rank means; an empty string for any other error."""
    if isinstance(error, RuntimeError):
        return next((text for sign, text in CRASH_SIGNS.items() if sign in str(error)), "")
    # A worker that dies while it sends a batch breaks a pipe of the standard library.
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return WORKER_LOST if "multiprocessing" in Path(innermost.filename).parts else ""


def _plugins(training: TrainingConfig) -> list[Any]:
    """Return the plugins for the precision and, inside a SLURM job, the cluster.

    Lightning's own requeueing would save inside the signal handler; `Preemption` replaces it.
    """
    precision = [TrueBf16Precision()] if training.precision == TRUE_BF16 else []
    cluster = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [*precision, *cluster]


class TrueBf16Precision(HalfPrecision):
    """Weights, gradients and the optimizer's state in bfloat16, and nothing else.

    Lightning's own plugin also casts the rotary frequencies, position ids and random numbers.
    bfloat16 cannot tell the positions of an hour apart.
    """

    def __init__(self) -> None:
        super().__init__("bf16-true")

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Cast the weights, and keep the rotary frequencies in float32."""
        module = super().convert_module(module)
        module.model.llm.reset_nonpersistent_buffers()  # type: ignore[operator, union-attr]
        return module

    def convert_input(self, data: Any) -> Any:
        """Return the batch unchanged: the model casts its inputs."""
        return data

    def tensor_init_context(self) -> AbstractContextManager:
        """Keep the default dtype of new tensors."""
        return nullcontext()

    def module_init_context(self) -> AbstractContextManager:
        """Keep the default dtype of new modules; `convert_module` casts them."""
        return nullcontext()

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Keep the default dtype of new tensors."""
        yield
