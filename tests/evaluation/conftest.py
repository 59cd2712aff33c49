"""Where the published files lie, and small files in the published layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import SHARED
from tests.evaluation import layouts

BENCHMARKS = SHARED / "benchmarks"

Write = Callable[[str], list[Path]]


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published question files, which lies beside the checkout and is not part of it."""
    if not (BENCHMARKS / "mlvu_dev").is_dir() or not (BENCHMARKS / "tempcompass").is_dir():
        pytest.skip(f"no published question files at {BENCHMARKS}")
    return BENCHMARKS


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the small files of a benchmark."""
    return lambda name: layouts.write_all(layouts.FILES[name], tmp_path / name)
