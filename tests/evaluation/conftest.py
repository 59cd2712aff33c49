"""Where the published files lie, and small files in the published layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import layouts
import pytest

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
