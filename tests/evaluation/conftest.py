"""Published question files, and small files in the published layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import SHARED
from tests.evaluation import question_files

if TYPE_CHECKING:  # importing toy_run loads Lightning, which takes seconds
    from tests.helpers.toy_run import TrainedRun

BENCHMARKS = SHARED / "benchmarks"

WriteFiles = Callable[[str], list[Path]]


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published question files, beside the checkout and not part of it."""
    if not (BENCHMARKS / "mlvu_dev").is_dir() or not (BENCHMARKS / "tempcompass").is_dir():
        pytest.skip(f"no published question files at {BENCHMARKS}")
    return BENCHMARKS


@pytest.fixture
def write_files(tmp_path: Path) -> WriteFiles:
    """A function that writes the small files of a benchmark."""
    return lambda name: question_files.write_all(question_files.FILES[name], tmp_path / name)


@pytest.fixture(scope="session")
def toy_split(trained: TrainedRun) -> Path:
    """A folder with two synthetic videos of half a minute, and questions about them."""
    return trained.project.yaml.parent / "world/validation"


@pytest.fixture(scope="session")
def choice_records(toy_split: Path) -> list[dict[str, Any]]:
    """The multiple-choice questions of `toy_split`."""
    return question_files.choice_records(toy_split / "questions.json")
