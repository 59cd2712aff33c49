"""A warning signal -> all ranks save together between two steps, SLURM starts the job again, and the process leaves.

Nothing is done inside the signal's handler: it may run on one rank alone, in the middle of a step.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.states import TrainerFn

from lit_hour.training.callbacks.checkpointing import PeriodicCheckpoint
from lit_hour.training.distributed import SHUTDOWN_SIGNAL, CrossRankMax
from lit_hour.types import Batch

UNFINISHED_RUN = os.EX_TEMPFAIL  # exit status: neither done nor failed, go on from the checkpoint
NOT_ONE_VALIDATED = {
    "ready": 1,
    "started": 1,
    "processed": 0,
    "completed": 0,
}  # as Lightning counts batches
VALIDATION_DUE = "validation_due"  # in a checkpoint: the validation after its step has not been

log = logging.getLogger("lit_hour")


def slurm_environment() -> list[SLURMEnvironment]:
    """Lightning's plugin for a task of srun, without its own requeueing, which saves inside the handler; else none."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


class Preemption(Callback):
    """Ends a run between two steps when any rank was warned: saves, and has SLURM start the job again.

    Raises:
        SystemExit: with `UNFINISHED_RUN`, on every rank; 0 on all but the first, whose status is that of the job.
    """

    def __init__(
        self, agreement: CrossRankMax, checkpoints: PeriodicCheckpoint, max_requeues: int
    ) -> None:
        self._agreement, self._checkpoints, self._max_requeues = (
            agreement,
            checkpoints,
            max_requeues,
        )
        self._first_step = 0
        self._num_common_batches = 0
        self._is_validation_due = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The ranks have found each other."""
        self._agreement.init_group()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning has just put a handler of its own in place of ours."""
        SHUTDOWN_SIGNAL.install()
        self._first_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Between two steps: the last one is finished, logged, and validated if that was due.

        Each start does at least one step, or a job that is warned early would start again for ever.
        """
        if (
            batch_idx % trainer.accumulate_grad_batches == 0
            and trainer.global_step > self._first_step
        ):
            self._look(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation may take longer than the warning leaves time; it starts anew after the restart."""
        SHUTDOWN_SIGNAL.install()  # of a validation without training
        num_batches = sum(int(num) for num in trainer.num_val_batches)
        self._num_common_batches = -self._agreement.reduce(
            -num_batches
        )  # ranks may have one more than others
        self._look(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Between two batches of a validation."""
        if batch_idx < self._num_common_batches:
            self._look(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note whether the validation after this step is still to be done."""
        checkpoint[VALIDATION_DUE] = self._is_validation_due

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have Lightning do the validation that is still to be done, as if it had been stopped in its first batch."""
        is_finished = (
            checkpoint["global_step"] >= trainer.max_steps
        )  # then there is only a validation without training
        if not checkpoint.get(VALIDATION_DUE) or is_finished:
            return
        loops = checkpoint["loops"]["fit_loop"]
        loops["epoch_loop.val_loop.batch_progress"] |= {
            "total": dict(NOT_ONE_VALIDATED),
            "current": dict(NOT_ONE_VALIDATED),
            "is_last_batch": False,
        }
        # Lightning counts the step once when it restarts and once more after the validation
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def _look(self, trainer: L.Trainer) -> None:
        warning = self._agreement.reduce(SHUTDOWN_SIGNAL.received)
        if warning:
            self._leave(trainer, signal.Signals(warning).name)

    def _leave(self, trainer: L.Trainer, warning: str) -> NoReturn:
        if trainer.state.fn == TrainerFn.FITTING:
            self._is_validation_due = trainer.validating
            self._checkpoints.save_now(trainer)
        if trainer.is_global_zero:
            log.warning(
                "\n%s: the run stops after step %d, which is saved", warning, trainer.global_step
            )
            requeue(self._max_requeues)
        trainer.strategy.barrier(
            "requeue"
        )  # a rank that left before could take the first one with it
        raise SystemExit(UNFINISHED_RUN if trainer.is_global_zero else 0)


def requeue(max_requeues: int) -> None:
    """Ask SLURM to start this job again, or say how to go on."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        log.warning("the same command goes on from there")
        return
    reason = why_not_requeue(job, max_requeues)
    if not reason:
        # said before it is done: SLURM then ends this process at once, and its last words may not reach the log
        log.warning("job %s is requeued, which may happen %d times", job, max_requeues)
        reason = ask_slurm("scontrol", "requeue", job).stderr.strip()
    if reason:
        log.warning(
            "job %s is not requeued: %s. 'scontrol requeue %s', or to submit it again, goes on from there",
            job,
            reason,
            job,
        )


def why_not_requeue(job: str, max_requeues: int) -> str:
    """In words; empty when nothing is against it."""
    num_requeues = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if num_requeues >= max_requeues:
        return f"it was {num_requeues} times, and training.max_requeues={max_requeues} are allowed"
    asked = ask_slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    state = asked.stdout.strip()
    if (
        asked.returncode or state != "RUNNING"
    ):  # scancel sends SIGTERM as preemption does, and has to end a job for good
        return (
            asked.stderr.strip()
            or f"it is {state or 'unknown to SLURM'}, as one that was cancelled"
        )
    return ""


def ask_slurm(*words: str) -> subprocess.CompletedProcess[str]:
    """What a program of SLURM's says; one that is not there has failed."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(words, 1, "", f"there is no {words[0]} here")
