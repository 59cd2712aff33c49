"""Paths of a run directory, and which checkpoint is used."""

from pathlib import Path

import pytest
import torch

from lit_hour.config.schema import RunConfig
from lit_hour.errors import RunError
from lit_hour.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path / "x")
    folder.checkpoints.mkdir(parents=True)
    for name in ("last", "step=000002"):
        torch.save({"global_step": 2}, folder.checkpoints / f"{name}.ckpt")
    return folder


def test_run_dir_is_named_after_the_run() -> None:
    run = RunDir.from_config(RunConfig(name="tiny", folder="some/runs"))
    assert run.path == Path("some/runs/tiny")
    assert run.config == run.path / "config.yaml"
    paths = [run.tokenizer, run.checkpoints, run.tensorboard, run.bad_samples]
    assert {path.parent for path in paths} == {run.path} and len(set(paths)) == 4


def test_checkpoint_is_found_by_name_and_best_is_preferred_to_last(run: RunDir) -> None:
    assert run.checkpoint("step=000002") == run.checkpoints / "step=000002.ckpt"
    assert run.checkpoint() == run.checkpoints / "last.ckpt"
    torch.save({}, run.checkpoints / "best.ckpt")
    assert run.checkpoint() == run.checkpoints / "best.ckpt"


def test_converted_checkpoint_is_a_folder_and_used_if_there_is_no_other(
    run: RunDir,
) -> None:
    (run.checkpoints / "converted").mkdir()
    (run.checkpoints / "converted.yaml").touch()
    assert run.checkpoint("converted") == run.checkpoints / "converted"
    assert run.checkpoint() == run.checkpoints / "last.ckpt"
    (run.checkpoints / "last.ckpt").unlink()
    assert run.checkpoint() == run.checkpoints / "converted"
    with pytest.raises(
        RunError, match=r"has no checkpoint 'best'\. It has: converted, step=000002"
    ):
        run.checkpoint("best")


def test_missing_checkpoint_is_refused_with_the_existing_ones(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=rf"{run.checkpoints} has no checkpoint 'first'\. It has: last, step=000002"
    ):
        run.checkpoint("first")
    with pytest.raises(RunError, match=rf"no run at {tmp_path}/y. Train one first"):
        RunDir(tmp_path / "y").checkpoint("best")
    (tmp_path / "y").mkdir()
    with pytest.raises(RunError, match="It has: none yet"):
        RunDir(tmp_path / "y").checkpoint("best")
