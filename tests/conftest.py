"""Fixtures that every room's tests share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import SHARED

if TYPE_CHECKING:  # small_run brings Lightning with it, which only those who train should wait for
    from lit_hour.run_dir import RunFolder
    from tests.small_run import Small, Trained, Watch


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of real clips, which lies beside the checkout and is not part of it."""
    folder = SHARED / "videos"
    if not (folder / "CATALOG.json").is_file():
        pytest.skip(f"no real clips at {folder}")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the published model's inputs and outputs."""
    folder = SHARED / "reference" / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden files at {folder}")
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Small settings, whose world is made and packed."""
    from lit_hour.synthetic.dataset import build_and_pack
    from tests.small_run import Small, settings

    folder = tmp_path_factory.mktemp("small")
    small = Small.write(folder, settings(folder / "world"))
    build_and_pack(small.config("none"))
    return small


@pytest.fixture(scope="session")
def trained(small: Small) -> Trained:
    """A run of `python train.py` with these settings, from the beginning to the end; not to be changed."""
    from tests.small_run import Trained

    words = ("training.pictures=2",)
    return Trained(small, small.run("whole"), words, small.train("whole", *words))


@pytest.fixture(scope="session")
def babbling(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that says something else to each question: a few steps teach a model to be silent."""
    import torch

    from lit_hour.run_dir import RunFolder

    run = RunFolder(
        Path(shutil.copytree(trained.run.path, tmp_path_factory.mktemp("runs") / "babbling"))
    )
    checkpoint = torch.load(run.checkpoint("best"), weights_only=True)
    for name, weight in checkpoint["state_dict"].items():
        if "language" in name and weight.dim() == 2:
            weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    torch.save(checkpoint, run.checkpoint("best"))
    return run


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watches the runs of a test from inside."""
    from lit_hour.training import fit
    from tests.small_run import Watch

    watching, build_callbacks = Watch(), fit.build_callbacks
    monkeypatch.setattr(fit, "build_callbacks", lambda *given: [*build_callbacks(*given), watching])
    return watching
