"""Signals outside of SLURM; tests/slurm has those under a real one."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.training.callbacks.preemption import EXIT_UNFINISHED
from lit_hour.training.checkpoints.checkpoint_io import step_of_checkpoint
from lit_hour.training.signals import EXIT_INTERRUPTED, REPEAT_SECONDS
from lit_hour.weights.reader import open_weights
from tests import REPOSITORY
from tests.helpers.toy_run import (
    NUM_STEPS,
    SAMPLES_PER_STEP,
    StepRecorder,
    ToyProject,
    TrainedRun,
    load_weights,
    max_abs_difference,
)
from tests.training.fork_run import AtBatch, fork_run


def warn(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def start_again(toy: ToyProject, name: str, *words: str) -> None:
    """Resume in another second: TensorBoard sorts the files of a run by seconds."""
    time.sleep(1 - time.time() % 1)
    toy.fit(name, *words)


def events(toy: ToyProject, name: str) -> EventAccumulator:
    accumulator = EventAccumulator(str(toy.run_dir(name).tensorboard))
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize(
    ("batch", "step"),
    [(4, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 1), (7, 4), (10, 5)))],
)
def test_signaled_run_saves_after_its_step_and_resumes_exactly(
    trained: TrainedRun, step_recorder: StepRecorder, batch: int, step: int
) -> None:
    name = f"warned-{batch}"
    run = fork_run(trained.project, name, callback=AtBatch(warn, batch=batch))
    assert run.wait() == [EXIT_UNFINISHED]
    assert (
        f"Received SIGTERM: saved a checkpoint at step {step}, exiting.\nRun the same command again"
        in run.output()
    )
    assert "Traceback" not in run.output()
    assert (
        torch.load(trained.project.run_dir(name).checkpoint("last"), weights_only=True)[
            "global_step"
        ]
        == step
    )
    start_again(trained.project, name)
    assert step_recorder.positions == list(
        range(step * SAMPLES_PER_STEP, NUM_STEPS * SAMPLES_PER_STEP)
    )
    assert (
        max_abs_difference(load_weights(trained.project.run_dir(name)), load_weights(trained.run))
        == 0
    )
    assert [event.step for event in events(trained.project, name).Scalars("train/loss")] == list(
        range(NUM_STEPS)
    )


def test_ctrl_c_saves_and_exits_and_a_second_one_exits_at_once(
    trained: TrainedRun, step_recorder: StepRecorder
) -> None:
    name, toy = "ctrl-c", trained.project
    run = fork_run(toy, name, callback=AtBatch(lambda: warn(signal.SIGINT), batch=3))
    assert run.wait() == [EXIT_UNFINISHED]
    printed = run.output()
    assert "Ctrl-C: training saves and exits after this step. Press Ctrl-C again" in printed
    assert "Received SIGINT: saved a checkpoint at step 2, exiting.\nRun the same" in printed
    assert "Traceback" not in printed

    def interrupt_twice() -> None:
        warn(signal.SIGINT)
        time.sleep(REPEAT_SECONDS + 0.1)
        warn(signal.SIGINT)
        time.sleep(30)

    run = fork_run(toy, name, callback=AtBatch(interrupt_twice, batch=1))
    assert run.wait() == [EXIT_INTERRUPTED]
    assert "Received SIGINT" not in run.output() and not toy.run_dir(name).lease.exists()
    start_again(toy, name)
    assert step_recorder.positions == list(range(2 * SAMPLES_PER_STEP, NUM_STEPS * 2))
    assert max_abs_difference(load_weights(toy.run_dir(name)), load_weights(trained.run)) == 0


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_saves_on_all_ranks(
    toy: ToyProject,
) -> None:
    """The terminal sends SIGINT to the process group: two ranks, each with a data worker."""
    words = ("training.devices=2", "data.num_workers=1", "training.max_steps=400")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "train.py", *toy.argv("terminal", *words)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    checkpoints = toy.run_dir("terminal").checkpoints
    while not list(checkpoints.glob("*.ckpt")) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=120)[0].decode()
    assert process.returncode == EXIT_UNFINISHED, printed
    assert printed.count("Press Ctrl-C again") == 1 and "Traceback" not in printed
    step = int(printed.rpartition("Received SIGINT: saved a checkpoint at step ")[2].split(",")[0])
    assert step_of_checkpoint(checkpoints / "last.ckpt") == step < 400
    assert not toy.run_dir("terminal").lease.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_data_workers_survive_a_signal_to_the_whole_job(trained: TrainedRun, number: int) -> None:
    def warn_all() -> None:
        processes = (
            *torch.multiprocessing.active_children(),
            multiprocessing.current_process(),
        )  # warned from outside
        subprocess.run(
            ["kill", f"-{number}", *(str(process.pid) for process in processes)], check=True
        )

    name, words = f"all-{number}", ("data.num_workers=1",)
    run = fork_run(trained.project, name, *words, callback=AtBatch(warn_all, batch=3))
    assert run.wait() == [EXIT_UNFINISHED], run.output()
    assert "saved a checkpoint at step 2, exiting." in run.output()
    start_again(trained.project, name, *words)
    assert (
        max_abs_difference(load_weights(trained.project.run_dir(name)), load_weights(trained.run))
        == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "in_validation", "step"),
    [
        (1, True, 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((5, False, 3), (6, False, 3), (3, True, 6), (12, False, 6))
        ),
    ],
)
def test_due_or_interrupted_validation_runs_after_the_restart(
    trained: TrainedRun, step_recorder: StepRecorder, batch: int, in_validation: bool, step: int
) -> None:
    name = f"due-{batch}-{in_validation}"
    forked = fork_run(
        trained.project,
        name,
        *trained.overrides,
        callback=AtBatch(warn, batch=batch, in_validation=in_validation),
    )
    assert forked.wait() == [EXIT_UNFINISHED]
    assert f"Received SIGTERM: saved a checkpoint at step {step}, exiting." in forked.output()
    start_again(trained.project, name, *trained.overrides)
    assert step_recorder.validated == [each for each in (3, 6) if each >= step]
    assert (
        max_abs_difference(load_weights(trained.project.run_dir(name)), load_weights(trained.run))
        == 0
    )
    stopped, undisturbed = (
        events(trained.project, name),
        events(trained.project, trained.run.path.name),
    )
    for tag in ("train/loss", "val/loss", "val/acc/open_ended"):
        values = [
            [(event.step, event.value) for event in run.Scalars(tag)]
            for run in (stopped, undisturbed)
        ]
        assert values[0] == values[1]
    assert [image.step for image in stopped.Images("val/answers/0")] == [2, 5]
    if (
        step < NUM_STEPS
    ):  # a validation after the last step, without training, makes no checkpoint the best one
        best = [load_weights(run, "best") for run in (trained.run, trained.project.run_dir(name))]
        assert max_abs_difference(*best) == 0


@pytest.mark.slow
def test_signal_stops_the_validation_of_a_finished_run(trained: TrainedRun) -> None:
    copied = trained.project.run_dir("validated")
    shutil.copytree(trained.run.path, copied.path)
    before = copied.checkpoint("last").stat().st_mtime_ns
    run = fork_run(
        trained.project,
        "validated",
        *trained.overrides,
        callback=AtBatch(warn, batch=1, in_validation=True),
    )
    assert run.wait() == [EXIT_UNFINISHED]
    assert copied.checkpoint("last").stat().st_mtime_ns == before


@pytest.mark.slow
def test_ranks_with_unequal_validation_shares_exit_together(toy: ToyProject) -> None:
    """Six videos for four ranks: the signal reaches a rank with one video, others have two."""
    words = (
        f"data.val_sources.more.shards={toy.yaml.parent}/world/train/shards",
        "data.global_batch_size=4",
        "training.val_every_n_steps=2",
        "training.max_steps=3",
    )
    callback = AtBatch(lambda: warn(signal.SIGUSR1), batch=1, rank=3, in_validation=True)
    run = fork_run(toy, "unequal", *words, num_ranks=4, callback=callback)
    assert run.wait() == [EXIT_UNFINISHED, 0, 0, 0]
    assert "Received SIGUSR1: saved a checkpoint at step 2, exiting." in run.output()
    assert not any(run.output(rank) for rank in (1, 2, 3))
    assert fork_run(toy, "unequal", *words, num_ranks=4).wait() == [0, 0, 0, 0]
    assert [event.step for event in events(toy, "unequal").Scalars("val/loss")] == [1, 3]


@pytest.mark.slow
def test_fsdp_ranks_exit_together_and_resume_exactly(
    toy: ToyProject,
) -> None:
    """The second rank alone is warned in the middle of a step, then in a validation; then it is
    killed."""
    words = ("training.strategy=fsdp", "training.val_every_n_steps=4")
    assert fork_run(toy, "shared", *words, num_ranks=2).wait() == [0, 0]
    stops = [
        AtBatch(lambda: warn(signal.SIGUSR1), batch=1, rank=1),
        AtBatch(warn, batch=1, rank=1, in_validation=True),
        AtBatch(lambda: os.kill(os.getpid(), signal.SIGKILL), batch=1, rank=1),
    ]
    for stop, statuses in zip(
        stops, ([EXIT_UNFINISHED, 0], [EXIT_UNFINISHED, 0], [1, -signal.SIGKILL]), strict=True
    ):
        assert (
            fork_run(toy, "shared-stopped", *words, num_ranks=2, callback=stop).wait() == statuses
        )
    assert fork_run(toy, "shared-stopped", *words, num_ranks=2).wait() == [0, 0]
    ends = [toy.run_dir(name).checkpoint("last") for name in ("shared", "shared-stopped")]
    assert all(step_of_checkpoint(end) == NUM_STEPS for end in ends)
    assert max_abs_difference(*(dict(open_weights(end).tensors()) for end in ends)) == 0


@pytest.mark.slow
def test_signal_during_the_imports_of_a_job_stops_after_one_step(
    toy: ToyProject,
) -> None:
    """Send the signal while the libraries load, in a job that SLURM does not know."""
    environment = {**os.environ, "SLURM_JOB_ID": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *toy.argv("early")]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not catches(process.pid, signal.SIGUSR1):
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    printed = process.communicate(timeout=60)[0].decode()
    assert process.returncode == EXIT_UNFINISHED
    assert "saved a checkpoint at step 1, exiting.\nJob 1 is not requeued: " in printed
    assert "Run 'scontrol requeue 1', or submit the job again, to resume." in printed


def catches(process: int, number: int) -> bool:
    """Return True if a process has a handler for a signal."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)
