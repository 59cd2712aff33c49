"""Save and exit between two steps after a signal on any rank, and requeue the SLURM job.

The signal handler itself only sets a flag: it may run on one rank alone, in the middle of a step.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from lit_hour.training.callbacks.checkpointing import PeriodicCheckpoint
from lit_hour.training.distributed import CrossRankMax
from lit_hour.training.lightning_state import restart_validation
from lit_hour.training.signals import ShutdownSignal
from lit_hour.types import Batch

EXIT_UNFINISHED = os.EX_TEMPFAIL  # neither finished nor failed: start the run again to resume it
VALIDATION_DUE = "validation_due"  # checkpoint key: the validation after its step was interrupted
RESUME_ADVICE = "Run the same command again to resume from there."

log = logging.getLogger(__name__)


class Preemption(Callback):
    """Ends a run between two steps after a signal: all ranks save, and rank zero requeues the job.

    Raises:
        SystemExit: on every rank; with `EXIT_UNFINISHED` on rank zero, whose status is that of the
            job, and with 0 on the others.
    """

    def __init__(
        self,
        shutdown: ShutdownSignal,
        cross_rank_max: CrossRankMax,
        checkpoints: PeriodicCheckpoint,
        max_requeues: int,
    ) -> None:
        self._shutdown, self._cross_rank_max = shutdown, cross_rank_max
        self._checkpoints, self._max_requeues = checkpoints, max_requeues
        self._first_step = 0
        self._num_common_batches = 0
        self._is_validation_due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handler again: Lightning has just replaced it by its own."""
        self._shutdown.install()
        self._first_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Exit between two steps, when the last one is logged, and validated if that was due.

        Each start does at least one step; otherwise a job that is signaled early would be requeued
        forever.
        """
        is_step_start = batch_idx % trainer.accumulate_grad_batches == 0
        if is_step_start and trainer.global_step > self._first_step:
            self._exit_if_signaled(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exit before a validation, which may outlast SLURM's patience; the restart validates."""
        self._shutdown.install()  # Lightning replaces the handler for `Trainer.validate` too
        num_batches = sum(int(num) for num in trainer.num_val_batches)
        # Some ranks may have one batch more than others: this is the minimum over the ranks.
        self._num_common_batches = -self._cross_rank_max.reduce(-num_batches)
        self._exit_if_signaled(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Exit between two batches of a validation."""
        if batch_idx < self._num_common_batches:
            self._exit_if_signaled(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Record whether the validation after this step still has to be done."""
        checkpoint[VALIDATION_DUE] = self._is_validation_due

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Start with the interrupted validation. After the last step `fit` validates by itself."""
        is_finished = checkpoint["global_step"] >= trainer.max_steps
        if checkpoint.get(VALIDATION_DUE) and not is_finished:
            restart_validation(checkpoint)

    def _exit_if_signaled(self, trainer: L.Trainer) -> None:
        if number := self._cross_rank_max.reduce(self._shutdown.received):
            self._exit(trainer, signal.Signals(number).name)

    def _exit(self, trainer: L.Trainer, signal_name: str) -> NoReturn:
        if trainer.state.fn == TrainerFn.FITTING:
            self._is_validation_due = trainer.validating
            self._checkpoints.save_now(trainer)
        if trainer.is_global_zero:
            log.warning(  # on a line of its own, below the progress bar
                "\nReceived %s: saved a checkpoint at step %d, exiting.",
                signal_name,
                trainer.global_step,
            )
            if signal_name == signal.SIGINT.name:  # Ctrl-C: not requeued
                log.warning(RESUME_ADVICE)
            else:
                requeue(self._max_requeues)
        # Without the barrier, a rank that exits first could take rank zero with it.
        trainer.strategy.barrier("requeue")
        raise SystemExit(EXIT_UNFINISHED if trainer.is_global_zero else 0)


def requeue(max_requeues: int) -> None:
    """Have SLURM start this job again, or log how to resume the run."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        log.warning(RESUME_ADVICE)
        return
    reason = why_not_requeue(job, max_requeues)
    if not reason:
        # Logged first: SLURM ends this process at once, and later output might be lost.
        log.warning("Requeueing job %s (at most %d times).", job, max_requeues)
        reason = run_slurm_command("scontrol", "requeue", job).stderr.strip()
    if reason:
        log.warning(
            "Job %s is not requeued: %s. Run 'scontrol requeue %s', or submit the job again, to"
            " resume.",
            job,
            reason,
            job,
        )


def why_not_requeue(job: str, max_requeues: int) -> str:
    """Return the reason not to requeue a job, or an empty string."""
    num_requeues = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if num_requeues >= max_requeues:
        return f"it was requeued {num_requeues} times and training.max_requeues={max_requeues}"
    result = run_slurm_command("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    state = result.stdout.strip()
    # scancel sends SIGTERM, like preemption; a canceled job must not come back.
    if result.returncode or state != "RUNNING":
        return result.stderr.strip() or f"its state is {state or 'unknown to SLURM'}"
    return ""


def run_slurm_command(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a SLURM program and capture its output. A missing program counts as failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} is not installed")
