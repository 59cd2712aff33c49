"""The Python API: `from lit_hour import fit, load`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lit_hour
from lit_hour import fit, load
from lit_hour.errors import ConfigError, RunError
from tests.helpers.imports import imported_modules
from tests.helpers.toy_run import NUM_STEPS, ToyProject, TrainedRun


def test_package_is_imported_without_its_entry_points() -> None:
    statements = "import lit_hour; assert 'fit' in lit_hour.__all__"
    assert imported_modules(statements, ("torch", "lightning", "lit_hour.api")) == []


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = lit_hour.train


def test_fit_resumes_a_run_of_train_py(trained: TrainedRun) -> None:
    """The same settings as a file with overrides, or as a Config."""
    project, run = trained.project, trained.project.run_dir("api")
    shutil.copytree(trained.run.path, run.path)
    words = (*trained.overrides, f"training.max_steps={NUM_STEPS + 1}")
    result = fit(project.yaml, *project.argv("api", *words)[1:])
    assert result.run.path == run.path and result.step == NUM_STEPS + 1
    assert fit(project.config("api", *words)).step == NUM_STEPS + 1


def test_load_answers_questions(trained: TrainedRun, toy: ToyProject) -> None:
    predictor = load(trained.run.path, device="cpu")
    video = next((toy.yaml.parent / "world/validation/videos").glob("*.mp4"))
    memory = predictor.encode_video(video)
    *_, answer = predictor.generate(memory, "Which color?", [])
    assert answer.text is not None and memory.num_frames > 1


def test_mistakes_are_named(tmp_path: Path, toy: ToyProject) -> None:
    with pytest.raises(ConfigError, match=r"training\.max_step"):
        fit(toy.yaml, "training.max_step=3")
    with pytest.raises(RunError, match="There is no run"):
        load(tmp_path / "none")
    with pytest.raises(TypeError, match="Overrides belong to a file"):
        fit(toy.config("none"), "training.max_steps=3")
