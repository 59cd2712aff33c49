"""Two ranks with FSDP save in the background: killed, signaled or out of disk, then resumed."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_hour.config.load import load_config
from lit_hour.run_dir import RunDir
from lit_hour.training.callbacks.preemption import EXIT_UNFINISHED
from lit_hour.training.checkpoints import checkpoint_io
from lit_hour.training.checkpoints.checkpoint_io import AtomicCheckpointIO
from tests.helpers.fork import ForkedRanks
from tests.helpers.toy_run import ToyProject
from tests.training.fork_run import AtBatch, fork_run

pytestmark = pytest.mark.slow

SHARDED = ("training.strategy=fsdp", "training.val_every_n_steps=6")
NAMES = ("last", "best", "step=000002", "step=000004", "step=000006")


def train(
    toy: ToyProject, name: str, prepare: Callable[[], None] = lambda: None, **options: Any
) -> ForkedRanks:
    words = (*SHARDED, "training.async_checkpoints=true")
    return fork_run(toy, name, *words, num_ranks=2, prepare=prepare, **options)


@pytest.fixture(scope="module")
def sync(toy: ToyProject) -> RunDir:
    """An uninterrupted run without checkpoints written in the background."""
    run = fork_run(toy, "sync", *SHARDED, num_ranks=2)
    assert run.wait() == [0, 0], run.output()
    return toy.run_dir("sync")


def state_of(run: RunDir, name: str) -> dict[str, Tensor]:
    """Return weights and optimizer state of a checkpoint, and its step."""
    folder = run.checkpoint(name)
    content = AtomicCheckpointIO(load_config(folder.with_suffix(".yaml"))).load_checkpoint(folder)
    state = content["optimizer_states"][0]["state"]
    tensors = {
        f"{number}.{key}": tensor for number, keys in state.items() for key, tensor in keys.items()
    }
    return content["state_dict"] | tensors | {"step": torch.tensor(content["global_step"])}


def assert_equal(run: RunDir, expected: RunDir, names: tuple[str, ...] = NAMES) -> None:
    """Compare checkpoints bit for bit."""
    for name in names:
        found, wanted = state_of(run, name), state_of(expected, name)
        assert found.keys() == wanted.keys()
        different = [key for key in wanted if not torch.equal(found[key], wanted[key])]
        assert not different, (name, different)


def test_checkpoints_equal_those_of_a_sync_run_bit_for_bit(toy: ToyProject, sync: RunDir) -> None:
    run = train(toy, "async")
    assert run.wait() == [0, 0], run.output()
    assert "each rank keeps a copy of" in run.output()
    assert_equal(toy.run_dir("async"), sync)
    assert {file.name for file in toy.run_dir("async").checkpoints.iterdir()} == {
        f"{name}{end}" for name in NAMES for end in (".ckpt", ".yaml")
    }


def slow_down(seconds: float) -> None:
    """Have each flush of a background write take some time; a checkpoint has five."""
    flush = checkpoint_io.flush

    def slow(path: Path) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(seconds)
        flush(path)

    checkpoint_io.flush = slow  # type: ignore[assignment]


@pytest.mark.parametrize("batch", [3, 4, 5])
def test_kill_of_all_ranks_during_the_write_resumes_bit_for_bit(
    toy: ToyProject, sync: RunDir, batch: int
) -> None:
    """The checkpoints of step 2 take seconds to write; the ranks are killed before and after 4."""
    name = f"killed-in-write-{batch}"
    pid_files = [toy.runs / f"{name}.{rank}.pid" for rank in (0, 1)]

    def prepare() -> None:
        slow_down(0.3)
        pid_files[int(os.environ["LOCAL_RANK"])].write_text(str(os.getpid()))

    def kill_all() -> None:
        for file in reversed(pid_files):
            os.kill(int(file.read_text()), signal.SIGKILL)

    killed = train(toy, name, prepare, callback=AtBatch(kill_all, batch=batch))
    assert killed.wait() == [-signal.SIGKILL] * 2, killed.output()
    run = toy.run_dir(name)
    assert [path.name for path in run.checkpoints.glob("*.unfinished")]
    resumed = train(toy, name)
    assert resumed.wait() == [0, 0], resumed.output()
    assert "Removed incomplete checkpoints" in resumed.output()
    assert_equal(run, sync, ("last", "step=000006"))


def test_sigterm_during_the_write_waits_for_it(toy: ToyProject, sync: RunDir) -> None:
    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    name = "terminated-in-write"
    run = train(toy, name, lambda: slow_down(0.5), callback=AtBatch(terminate, batch=3, rank=1))
    assert run.wait() == [EXIT_UNFINISHED, 0], run.output()
    step = int(state_of(toy.run_dir(name), "last")["step"])
    assert f"Received SIGTERM: saved a checkpoint at step {step}" in run.output() and step >= 3
    resumed = train(toy, name)
    assert resumed.wait() == [0, 0], resumed.output()
    assert f"resumes from {toy.run_dir(name).checkpoints / 'last.ckpt'}, step {step}" in (
        resumed.output()
    )
    assert_equal(toy.run_dir(name), sync, ("last",))


def test_write_that_fails_ends_all_ranks_and_keeps_the_previous(
    toy: ToyProject, sync: RunDir
) -> None:
    name = "full-in-write"
    run = toy.run_dir(name)

    def limit() -> None:
        while not (run.checkpoints / "last.ckpt").is_dir():  # step 2 is still being written
            time.sleep(0.01)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    stopped = train(toy, name, callback=AtBatch(limit, batch=3, rank=1))
    assert stopped.wait() == [1, 1], stopped.output()
    for rank in (0, 1):
        printed = stopped.output(rank)
        assert "step=000004.ckpt could not be saved: File too large" in printed
        assert "Traceback" not in printed
    assert {file.name for file in run.checkpoints.iterdir()} == {
        f"{name}{end}" for name in ("last", "step=000002") for end in (".ckpt", ".yaml")
    }
    assert int(state_of(run, "last")["step"]) == 2
    assert train(toy, name).wait() == [0, 0]
    assert_equal(run, sync, ("last", "step=000006"))


def test_exception_waits_for_the_write(toy: ToyProject) -> None:
    def fail() -> None:
        raise ValueError("a fault of a step")

    name = "failed-in-write"
    run = train(toy, name, lambda: slow_down(0.2), callback=AtBatch(fail, batch=3))
    assert run.wait()[0] == 1
    assert "a fault of a step" in run.output()
    assert int(state_of(toy.run_dir(name), "last")["step"]) == 2
