"""Fixtures that every room's tests share."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


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
