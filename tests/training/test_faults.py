"""Killed processes, hanging workers and full disks: the message, and an exact resume."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.run_dir import RunDir
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


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_the_data_workers() -> None:
    for worker in torch.multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)


@pytest.fixture(scope="module")
def two_ranks(toy: ToyProject) -> ToyProject:
    """An uninterrupted run with two ranks."""
    assert fork_run(toy, "two-ranks", num_ranks=2).wait() == [0, 0]
    return toy


@pytest.mark.slow
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_rank_stops_the_others_and_the_run_resumes(
    two_ranks: ToyProject, victim: int
) -> None:
    name = f"killed-{victim}"
    run = fork_run(
        two_ranks, name, num_ranks=2, callback=AtBatch(kill_this_process, batch=5, rank=victim)
    )
    statuses = run.wait()
    assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] == 1
    printed = run.output(1 - victim)
    assert "error: Another rank of this run has exited" in printed and "Traceback" not in printed
    assert (
        0
        < torch.load(two_ranks.run_dir(name).checkpoint("last"), weights_only=True)["global_step"]
        < NUM_STEPS
    )
    assert fork_run(two_ranks, name, num_ranks=2).wait() == [0, 0]
    assert (
        max_abs_difference(
            load_weights(two_ranks.run_dir(name)), load_weights(two_ranks.run_dir("two-ranks"))
        )
        == 0
    )


@pytest.mark.slow
def test_killed_data_worker_stops_the_run_which_resumes(
    trained: TrainedRun, step_recorder: StepRecorder
) -> None:
    overrides = ("data.num_workers=1",)
    run = fork_run(
        trained.project, "worker", *overrides, callback=AtBatch(kill_the_data_workers, batch=5)
    )
    assert run.wait() == [1]
    assert "error: A data worker was killed" in run.output() and "Traceback" not in run.output()
    trained.project.fit("worker", *overrides)
    assert step_recorder.positions[-4:] == [8, 9, 10, 11]
    assert (
        max_abs_difference(
            load_weights(trained.project.run_dir("worker")), load_weights(trained.run)
        )
        == 0
    )


@pytest.mark.slow
def test_hanging_data_worker_stops_the_run_which_resumes(
    trained: TrainedRun, step_recorder: StepRecorder, tmp_path: Path
) -> None:
    folder = shutil.copytree(
        trained.project.yaml.parent / "world/train/shards", tmp_path / "shards"
    )
    overrides = (
        f"data.sources.world.shards={folder}",
        "data.num_workers=1",
        "data.timeout_seconds=2",
    )

    def replace_tars_by_pipes() -> None:  # opening a pipe blocks, as on a lost network disk
        for tar in folder.glob("*.tar"):
            tar.rename(tar.with_suffix(".aside"))
            os.mkfifo(tar)

    run = fork_run(
        trained.project, "hung", *overrides, callback=AtBatch(replace_tars_by_pipes, batch=5)
    )
    assert run.wait() == [1]
    assert (
        "error: A DataLoader worker hangs: no batch within data.timeout_seconds=2" in run.output()
    )
    assert f" It is reading {folder}/00000" in run.output() and "Traceback" not in run.output()
    for tar in folder.glob("*.aside"):
        tar.replace(tar.with_suffix(".tar"))
    trained.project.fit("hung", *overrides)
    assert step_recorder.positions[-4:] == [8, 9, 10, 11]
    assert (
        max_abs_difference(load_weights(trained.project.run_dir("hung")), load_weights(trained.run))
        == 0
    )


def die_before_name(number: int) -> Callable[[], None]:
    """Return a function that has the process killed before its n-th checkpoint file is renamed."""

    def prepare() -> None:
        replace, named = os.replace, []

        def count_and_replace(old: Path, new: Path) -> None:
            named.extend([new] if "checkpoints" in Path(new).parts else [])
            if len(named) == number:
                kill_this_process()
            replace(old, new)

        os.replace = count_and_replace

    return prepare


def die_half_way_through_content(number: int) -> Callable[[], None]:
    """Return a function that has the process killed when half of its n-th checkpoint is written."""

    def prepare() -> None:
        save, calls = torch.save, []

        def save_half(content: object, file: BinaryIO) -> None:
            calls.append(content)
            save(content, file)
            if len(calls) == number:
                file.truncate(file.tell() // 2)
                kill_this_process()

        torch.save = save_half

    return prepare


# The fourth checkpoint is step=000004.ckpt, the fifth last.ckpt of the same step. Each is two
# files, which are renamed.
MOMENTS = {
    "in the content": die_half_way_through_content(4),
    "before the settings have their name": die_before_name(7),
    "before the checkpoint has its name": die_before_name(8),
    "right after the checkpoint has its name": die_before_name(9),
    "in the content of the last one": die_half_way_through_content(5),
    "before the last one has its name": die_before_name(10),
}


@pytest.mark.parametrize(
    "moment",
    [
        moment if number in (0, 2) else pytest.param(moment, marks=pytest.mark.slow)
        for number, moment in enumerate(MOMENTS)
    ],
)
def test_run_killed_while_saving_resumes_exactly(
    trained: TrainedRun, step_recorder: StepRecorder, moment: str
) -> None:
    name = "saving-" + moment.replace(" ", "-")
    assert fork_run(trained.project, name, prepare=MOMENTS[moment]).wait() == [-signal.SIGKILL]
    run = trained.project.run_dir(name)
    assert list(run.checkpoints.glob("*.unfinished"))
    time.sleep(1 - time.time() % 1)  # TensorBoard sorts the files of a run by seconds
    trained.project.fit(name)
    assert not list(run.checkpoints.glob("*.unfinished"))
    # Step 3 has the best checkpoint.
    started_at = 4 if "last one" in moment or "right after" in moment else 3
    assert step_recorder.positions == list(
        range(started_at * SAMPLES_PER_STEP, NUM_STEPS * SAMPLES_PER_STEP)
    )
    assert max_abs_difference(load_weights(run), load_weights(trained.run)) == 0
    curves = EventAccumulator(str(run.tensorboard))
    curves.Reload()
    assert [event.step for event in curves.Scalars("train/loss")] == list(range(NUM_STEPS))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that has room for two checkpoints and not for three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_full_disk_stops_the_run_which_resumes(two_ranks: ToyProject, disk: Path) -> None:
    overrides = (f"run.folder={disk}",)
    run = RunDir(disk / "full")
    stopped = fork_run(two_ranks, "full", *overrides, num_ranks=2)
    assert stopped.wait() == [1, 1]
    assert (
        f"error: {run.checkpoints}/best.ckpt could not be saved: No space left on device. "
        in stopped.output(0)
    )
    assert "error: Another rank of this run has exited" in stopped.output(1)
    assert "Traceback" not in stopped.output(0) + stopped.output(1)
    assert {file.name for file in run.checkpoints.iterdir()} == {
        f"{name}{end}" for name in ("last", "step=000002") for end in (".ckpt", ".yaml")
    }
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    assert fork_run(two_ranks, "full", *overrides, num_ranks=2).wait() == [0, 0]
    assert max_abs_difference(load_weights(run), load_weights(two_ranks.run_dir("two-ranks"))) == 0
