"""A folder that one worker of pytest-xdist builds for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return the folder `name`, built by the first worker of this session that needs it.

    The other workers wait for it. No test may change what it contains.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        built = folder / ".built"
        if not built.exists():
            folder.mkdir()  # fails if another worker's build has failed
            build(folder)
            built.touch()
    return folder
