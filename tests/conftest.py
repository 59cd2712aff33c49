"""Fixtures for the tests of all packages."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import SHARED
from tests.helpers.golden import link_recordings

if TYPE_CHECKING:  # importing toy_run loads Lightning, which takes seconds
    from lit_hour.run_dir import RunDir
    from tests.helpers.toy_run import StepRecorder, ToyProject, TrainedRun

# One thread per process: tests fork ranks, and a fork cannot use the threads of its parent. torch
# reads this when it is imported, which is later.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
LAUNCH_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
signal_handlers: dict[signal.Signals, Any] = {}  # at the start of the session


def pytest_configure() -> None:
    """Handle signals that a shell or nohup has made this process, and its children, ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number in HANDLED_SIGNALS:
        signal_handlers[number] = signal.getsignal(number)


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    """Undo what a run in this process leaves behind, which forks in later tests would inherit.

    That is a process group, whose other end is not forked, and signal handlers.
    """
    yield
    if (distributed := sys.modules.get("torch.distributed")) and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # a fork that frees a group later would wait for threads that it does not have
    for variable in LAUNCH_VARIABLES:
        os.environ.pop(variable, None)
    for number, handler in signal_handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of real clips, which is beside the checkout and not part of it."""
    folder = SHARED / "videos"
    if not (folder / "CATALOG.json").is_file():
        pytest.skip(f"no real clips at {folder}")
    return folder


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of links to the recordings of the published model."""
    return link_recordings(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    """A small project with synthetic videos and shards."""
    from lit_hour.synthetic.packing import build_and_pack
    from tests.helpers.toy_run import ToyProject, toy_settings

    folder = tmp_path_factory.mktemp("small")
    toy = ToyProject.write(folder, toy_settings(folder / "world"))
    build_and_pack(toy.config("none"))
    return toy


@pytest.fixture(scope="session")
def trained(toy: ToyProject) -> TrainedRun:
    """A finished run of `python train.py` on the toy project; tests must not change it."""
    from tests.helpers.toy_run import TrainedRun

    overrides = ("training.num_val_images=2",)
    return TrainedRun(toy, toy.run_dir("whole"), overrides, toy.train("whole", *overrides))


@pytest.fixture(scope="session")
def random_run(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with random language-model weights, so that it answers each question differently.

    A model that was trained for a few steps generates nothing.
    """
    import torch

    from lit_hour.run_dir import RunDir

    run = RunDir(
        Path(shutil.copytree(trained.run.path, tmp_path_factory.mktemp("runs") / "random_run"))
    )
    checkpoint = torch.load(run.checkpoint("best"), weights_only=True)
    for name, weight in checkpoint["state_dict"].items():
        if "llm." in name and weight.dim() == 2:
            weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    torch.save(checkpoint, run.checkpoint("best"))
    return run


@pytest.fixture
def step_recorder(monkeypatch: pytest.MonkeyPatch) -> StepRecorder:
    """A callback that records the steps of every run in the test."""
    from lit_hour.training import fit
    from tests.helpers.toy_run import StepRecorder

    recorder, build_callbacks = StepRecorder(), fit.build_callbacks
    monkeypatch.setattr(fit, "build_callbacks", lambda *args: [*build_callbacks(*args), recorder])
    return recorder
