"""Where the published files lie, and small files in the published layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import layouts
import pytest
import torch
from small_run import Trained

from lit_hour.run import RunFolder

SHARED = Path(__file__).resolve().parents[3] / "shared" / "benchmarks"

Write = Callable[[str], list[Path]]


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published question files, which lies beside the checkout and is not part of it."""
    if not (SHARED / "mlvu_dev").is_dir() or not (SHARED / "tempcompass").is_dir():
        pytest.skip(f"no published question files at {SHARED}")
    return SHARED


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the small files of a benchmark."""
    return lambda name: layouts.write_all(layouts.FILES[name], tmp_path / name)


@pytest.fixture(scope="session")
def babbling(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that says something else to each question: a few steps teach a model to be silent."""
    run = RunFolder(Path(shutil.copytree(trained.run.path, tmp_path_factory.mktemp("runs") / "babbling")))
    checkpoint = torch.load(run.checkpoint("best"), weights_only=True)
    for name, weight in checkpoint["state_dict"].items():
        if "language" in name and weight.dim() == 2:
            weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    torch.save(checkpoint, run.checkpoint("best"))
    return run
