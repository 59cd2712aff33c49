"""Fixtures that every room's tests share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import SHARED
from tests.helpers.golden import link_recordings

if TYPE_CHECKING:  # importing toy_run loads Lightning, which takes seconds
    from lit_hour.run_dir import RunDir
    from tests.helpers.toy_run import StepRecorder, ToyProject, TrainedRun


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of real clips, which lies beside the checkout and is not part of it."""
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
    from lit_hour.synthetic.dataset import build_and_pack
    from tests.helpers.toy_run import ToyProject, toy_settings

    folder = tmp_path_factory.mktemp("small")
    toy = ToyProject.write(folder, toy_settings(folder / "world"))
    build_and_pack(toy.config("none"))
    return toy


@pytest.fixture(scope="session")
def trained(toy: ToyProject) -> TrainedRun:
    """A run of `python train.py` with these settings, from the beginning to the end; not to be
    changed."""
    from tests.helpers.toy_run import TrainedRun

    words = ("training.num_val_images=2",)
    return TrainedRun(toy, toy.run_dir("whole"), words, toy.train("whole", *words))


@pytest.fixture(scope="session")
def random_run(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that says something else to each question: a few steps teach a model to be silent."""
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
    """Watches the runs of a test from inside."""
    from lit_hour.training import fit
    from tests.helpers.toy_run import StepRecorder

    watching, build_callbacks = StepRecorder(), fit.build_callbacks
    monkeypatch.setattr(fit, "build_callbacks", lambda *given: [*build_callbacks(*given), watching])
    return watching
