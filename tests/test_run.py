from pathlib import Path

import pytest
import torch

from lit_hour.config.schema import RunConfig
from lit_hour.errors import RunError
from lit_hour.run import RunFolder, read_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "x")
    folder.checkpoints.mkdir(parents=True)
    for name in ("last", "step=000002"):
        torch.save({"global_step": 2}, folder.checkpoints / f"{name}.ckpt")
    return folder


def test_a_run_lies_in_a_folder_of_its_name() -> None:
    run = RunFolder.of(RunConfig(name="tiny", folder="some/runs"))
    assert run.path == Path("some/runs/tiny")
    assert run.config == run.path / "config.yaml"
    places = [run.tokenizer, run.checkpoints, run.tensorboard, run.skipped]
    assert {place.parent for place in places} == {run.path} and len(set(places)) == 4


def test_a_checkpoint_is_found_by_name_and_the_best_before_the_last(run: RunFolder) -> None:
    assert run.checkpoint("step=000002") == run.checkpoints / "step=000002.ckpt"
    assert run.checkpoint() == run.checkpoints / "last.ckpt"
    torch.save({}, run.checkpoints / "best.ckpt")
    assert run.checkpoint() == run.checkpoints / "best.ckpt"


def test_what_is_missing_is_named_with_what_there_is(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"no checkpoint 'first' in {run.checkpoints}; there is: last, step=000002"):
        run.checkpoint("first")
    with pytest.raises(RunError, match=rf"no run at {tmp_path}/y: train one first"):
        RunFolder(tmp_path / "y").checkpoint("best")
    (tmp_path / "y").mkdir()
    with pytest.raises(RunError, match="there is: none yet"):
        RunFolder(tmp_path / "y").checkpoint("best")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_named(run: RunFolder, content: bytes) -> None:
    file = run.checkpoint("last")
    assert read_checkpoint(file) == {"global_step": 2}
    file.write_bytes(content)
    with pytest.raises(RunError, match=rf"{file} is damaged or no checkpoint"):
        read_checkpoint(file)
