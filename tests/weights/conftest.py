"""A published model, the run converted from it, and a copy to corrupt."""

import shutil
from pathlib import Path

import pytest
from torch import Tensor

from lit_hour.run_dir import RunDir
from lit_hour.weights.convert import convert
from tests.weights.factories import (
    TOWER_OVERRIDES,
    write_hour_llava,
)


@pytest.fixture(scope="package")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A published Hour-LLaVA in shards (read-only), and its weights."""
    folder = tmp_path_factory.mktemp("published") / "published"
    return folder, write_hour_llava(folder)


@pytest.fixture(scope="package")
def run(
    published: tuple[Path, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """The run converted from it (read-only)."""
    folder = tmp_path_factory.mktemp("converted") / "run"
    convert(published[0], folder, TOWER_OVERRIDES)
    return RunDir(folder)


@pytest.fixture
def corrupted(published: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> Path:
    """A copy that a test may corrupt."""
    return Path(shutil.copytree(published[0], tmp_path / "corrupted"))
