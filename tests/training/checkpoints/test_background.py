"""Checkpoints written in the background: what a kill, a full disk and later steps leave."""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config, RunConfig
from lit_hour.errors import ConfigError, RunError
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints import background, checkpoint_io
from lit_hour.training.checkpoints.background import BackgroundSaver, staging_bytes
from lit_hour.training.checkpoints.checkpoint_io import (
    AtomicCheckpointIO,
    repair_checkpoint_dir,
    write_sharded,
)
from lit_hour.training.checkpoints.resume import find_resume_point
from lit_hour.weights.reader import open_weights, read_checkpoint
from tests.training.checkpoints.helpers import content_of, run_in_a_rank

CONFIG = Config(run=RunConfig(name="background"))
NUM_WEIGHTS = 5000


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with a sharded checkpoint of step 7."""
    run = RunDir(tmp_path)
    weights = torch.full((NUM_WEIGHTS,), 7.0)
    path = run.checkpoints / "last.ckpt"
    assert (
        run_in_a_rank(lambda: write_sharded(path, content_of({"weight": weights}, 7), CONFIG)) == 0
    )
    return run


def step_of(run: RunDir, name: str = "last") -> int:
    """Return the step of a checkpoint and check that its weights are from this step."""
    path = run.checkpoints / f"{name}.ckpt"
    step = read_checkpoint(path)["global_step"]
    assert torch.equal(open_weights(path).read("weight"), torch.full((NUM_WEIGHTS,), float(step)))
    return step


def test_later_steps_neither_wait_for_a_write_nor_change_it(run: RunDir) -> None:
    path = run.checkpoints / "last.ckpt"

    def work() -> None:
        may_write, flush = threading.Event(), checkpoint_io.flush

        def wait_and_flush(written: Path) -> None:
            assert may_write.wait(30)
            flush(written)

        checkpoint_io.flush = wait_and_flush
        saver, weights = BackgroundSaver(CONFIG), torch.full((NUM_WEIGHTS,), 8.0)
        saver.save(path, content_of({"weight": weights}, 8))
        weights.fill_(9)  # the next step
        saver.check()
        assert step_of(run) == 7
        may_write.set()
        saver.save(path, content_of({"weight": weights}, 9))  # waits for the write of step 8
        assert step_of(run) == 8
        saver.wait()
        saver.close()
        assert step_of(run) == 9

    assert run_in_a_rank(work) == 0
    assert step_of(run) == 9
    assert {file.name for file in run.checkpoints.iterdir()} == {"last.ckpt", "last.yaml"}


def test_checkpoints_of_one_step_share_one_copy_and_old_ones_go_last(run: RunDir) -> None:
    def work() -> None:
        saver, weights = BackgroundSaver(CONFIG), torch.full((NUM_WEIGHTS,), 8.0)
        last = run.checkpoints / "last.ckpt"
        saver.save(run.checkpoints / "step=000008.ckpt", content_of({"weight": weights}, 8))
        weights.fill_(-1)  # would be in a second copy
        saver.remove(partial(AtomicCheckpointIO(CONFIG).remove_checkpoint, last))
        saver.save(run.checkpoints / "best.ckpt", content_of({"weight": weights}, 8))
        saver.wait()

    assert run_in_a_rank(work) == 0
    assert step_of(run, "step=000008") == step_of(run, "best") == 8
    assert not list(run.checkpoints.glob("last*"))
    assert staging_bytes(content_of({"weight": torch.zeros(NUM_WEIGHTS)}, 8)) == 4 * NUM_WEIGHTS


KILLS = {  # last function called in the background, the number of the call
    "before the write": ("dcp.save", 1),
    "in the write": ("SerializedWrite", 1),
    "all ranks have written": ("_finish_folder", 1),
    "settings not renamed": ("os.replace", 1),
    "previous not renamed": ("os.rename", 1),
    "new one not renamed": ("os.rename", 2),
    "previous not removed": ("shutil.rmtree", 1),
}


def kill_in_background(where: str, number: int) -> None:
    """Kill this process at a call that a thread other than the main one makes."""
    calls: list[str] = []

    def die_or(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            if threading.current_thread() is not threading.main_thread():
                calls.append(where)
                if len(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    if where == "SerializedWrite":  # half of the file is written
        import torch.distributed.checkpoint.filesystem as filesystem

        opened = filesystem.FileSystem.create_stream

        def half(self: object, path: Path, mode: str) -> object:
            if mode == "wb":
                Path(path).write_bytes(b"\0" * 1000)
                os.kill(os.getpid(), signal.SIGKILL)
            return opened(self, path, mode)  # type: ignore[arg-type]

        filesystem.FileSystem.create_stream = half  # type: ignore[assignment, method-assign]
        return
    owner = {
        "dcp.save": checkpoint_io.dcp,
        "_finish_folder": checkpoint_io,
        "os.replace": os,
        "os.rename": os,
        "shutil.rmtree": checkpoint_io.shutil,
    }[where]
    name = where.rpartition(".")[2]
    setattr(owner, name, die_or(getattr(owner, name)))


@pytest.mark.parametrize("case", KILLS)
def test_kill_during_the_write_leaves_a_complete_checkpoint(run: RunDir, case: str) -> None:
    def work() -> None:
        kill_in_background(*KILLS[case])
        saver = BackgroundSaver(CONFIG)
        saver.save(
            run.checkpoints / "last.ckpt",
            content_of({"weight": torch.full((NUM_WEIGHTS,), 8.0)}, 8),
        )
        time.sleep(30)  # the steps of training

    assert run_in_a_rank(work) == -signal.SIGKILL
    repair_checkpoint_dir(run)
    assert find_resume_point(run).checkpoint == run.checkpoints / "last.ckpt"
    assert step_of(run) == (8 if case == "previous not removed" else 7)
    assert {file.name for file in run.checkpoints.iterdir()} == {"last.ckpt", "last.yaml"}


def test_failed_write_is_reported_and_stops_later_writes_and_removals(run: RunDir) -> None:
    last = run.checkpoints / "last.ckpt"

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        saver, weights = BackgroundSaver(CONFIG), torch.full((NUM_WEIGHTS,), 8.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
        saver.save(run.checkpoints / "step=000008.ckpt", content_of({"weight": weights}, 8))
        saver.save(last, content_of({"weight": weights}, 8))
        saver.remove(partial(AtomicCheckpointIO(CONFIG).remove_checkpoint, last))
        while not saver._latest.done():  # type: ignore[union-attr]
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        with pytest.raises(RunError, match=r"step=000008\.ckpt could not be saved: File too large"):
            saver.check()

    assert run_in_a_rank(work) == 0
    assert step_of(run) == 7
    assert {file.name for file in run.checkpoints.iterdir()} == {"last.ckpt", "last.yaml"}


def test_error_after_an_exception_is_logged_not_raised(
    run: RunDir, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(background, "write_sharded", fail)
    monkeypatch.setattr(background.dist, "new_group", lambda backend: None)
    saver = BackgroundSaver(CONFIG)
    saver.save(run.checkpoints / "last.ckpt", content_of({"weight": torch.zeros(1)}, 8))
    saver.wait_and_log()
    assert "The checkpoint in progress was not written: the disk is full" in caplog.text


def test_async_checkpoints_of_an_unsharded_run_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.strategy=ddp. Set training\.strategy=fsdp"):
        load_config([], ["training.async_checkpoints=true", "training.strategy=ddp"])
