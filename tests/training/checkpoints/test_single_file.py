import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config, RunConfig
from lit_hour.errors import RunError, WeightsError
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints import checkpoint_io
from lit_hour.training.checkpoints.checkpoint_io import (
    AtomicCheckpointIO,
    repair_checkpoint_dir,
    step_of_checkpoint,
)

BEFORE, AFTER = Config(run=RunConfig(name="before")), Config(run=RunConfig(name="after"))
WEIGHT = torch.arange(5000.0)
STATE = {"global_step": 7, "state_dict": {"weight": WEIGHT}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of step 7 and its settings."""
    file = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO(BEFORE).save_checkpoint(STATE, file)
    return file


def step_of(file: Path) -> int:
    state = torch.load(file, weights_only=True)
    assert torch.equal(state["state_dict"]["weight"], WEIGHT)
    return state["global_step"]


def save_in_a_process(prepare: Callable[[], None], file: Path) -> int | None:
    """Save step 8 over it, after something was prepared that goes wrong; the exit code."""

    def save() -> None:
        prepare()
        AtomicCheckpointIO(AFTER).save_checkpoint({**STATE, "global_step": 8}, file)

    process = multiprocessing.get_context("fork").Process(target=save)
    process.start()
    process.join(30)
    return process.exitcode


def test_a_checkpoint_lies_beside_its_settings_and_goes_with_them(saved: Path) -> None:
    assert sorted(file.name for file in saved.parent.iterdir()) == ["last.ckpt", "last.yaml"]
    assert step_of(saved) == 7
    assert load_config(saved.with_suffix(".yaml")) == BEFORE
    assert save_in_a_process(lambda: None, saved) == 0
    assert step_of(saved) == 8
    assert load_config(saved.with_suffix(".yaml")) == AFTER
    AtomicCheckpointIO(AFTER).remove_checkpoint(saved)
    assert list(saved.parent.iterdir()) == []


@pytest.mark.parametrize("num_renamed", [0, 1])
def test_killed_while_saving_the_one_before_is_whole(saved: Path, num_renamed: int) -> None:
    renamed: list[Path] = []

    def die_at_a_rename() -> None:
        def rename(old: Path, new: Path) -> None:
            if len(renamed) == num_renamed:
                os.kill(os.getpid(), signal.SIGKILL)
            renamed.append(new)
            os.rename(old, new)

        checkpoint_io.os.replace = rename  # type: ignore

    assert save_in_a_process(die_at_a_rename, saved) == -signal.SIGKILL
    assert step_of(saved) == 7
    assert load_config(saved.with_suffix(".yaml")) == (BEFORE, AFTER)[num_renamed]
    assert save_in_a_process(lambda: None, saved) == 0
    assert step_of(saved) == 8
    assert sorted(file.name for file in saved.parent.iterdir()) == ["last.ckpt", "last.yaml"]


def test_a_file_that_may_not_grow_leaves_the_one_before(saved: Path) -> None:
    size = saved.stat().st_size // 2
    assert (
        save_in_a_process(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)), saved)
        == 1
    )
    assert step_of(saved) == 7
    assert load_config(saved.with_suffix(".yaml")) == BEFORE


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that has room for one checkpoint and not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_one_before_and_is_named(full_disk: Path) -> None:
    file = full_disk / "last.ckpt"
    AtomicCheckpointIO(BEFORE).save_checkpoint(STATE, file)
    before = [path.name for path in sorted(full_disk.iterdir())]
    with pytest.raises(
        RunError,
        match=rf"^{file} could not be saved: No space left on device\. 0\.0 MB are free there",
    ):
        AtomicCheckpointIO(AFTER).save_checkpoint({**STATE, "global_step": 8}, file)
    assert [path.name for path in sorted(full_disk.iterdir())] == before
    assert step_of(file) == 7
    assert load_config(file.with_suffix(".yaml")) == BEFORE


def test_what_cannot_be_saved_is_no_matter_of_the_disk(saved: Path) -> None:
    with pytest.raises(TypeError):
        AtomicCheckpointIO(AFTER).save_checkpoint({"global_step": 8, "stream": sys.stdout}, saved)
    assert step_of(saved) == 7


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_checkpoint_that_was_cut_is_damaged(saved: Path, share: float) -> None:
    assert step_of_checkpoint(saved) == 7
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=rf"^{saved} is corrupt or not a checkpoint"):
        step_of_checkpoint(saved)


def test_a_file_without_a_step_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        step_of_checkpoint(tmp_path / "other.ckpt")


def test_what_a_dead_run_has_left_is_removed(saved: Path) -> None:
    parts = [saved.with_name("best.ckpt.unfinished"), saved.with_name("last.yaml.unfinished")]
    for part in parts:
        part.touch()
    assert repair_checkpoint_dir(RunDir(saved.parents[1])) == parts
    assert sorted(file.name for file in saved.parent.iterdir()) == ["last.ckpt", "last.yaml"]
    assert repair_checkpoint_dir(RunDir(saved.parent)) == []
