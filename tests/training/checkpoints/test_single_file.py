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
    """Save step 8 over it in a fork after calling `prepare` there, and return the exit code."""

    def save() -> None:
        prepare()
        AtomicCheckpointIO(AFTER).save_checkpoint({**STATE, "global_step": 8}, file)

    process = multiprocessing.get_context("fork").Process(target=save)
    process.start()
    process.join(30)
    return process.exitcode


def test_settings_are_saved_replaced_and_removed_with_their_checkpoint(saved: Path) -> None:
    assert sorted(file.name for file in saved.parent.iterdir()) == ["last.ckpt", "last.yaml"]
    assert step_of(saved) == 7
    assert load_config(saved.with_suffix(".yaml")) == BEFORE
    assert save_in_a_process(lambda: None, saved) == 0
    assert step_of(saved) == 8
    assert load_config(saved.with_suffix(".yaml")) == AFTER
    AtomicCheckpointIO(AFTER).remove_checkpoint(saved)
    assert list(saved.parent.iterdir()) == []


@pytest.mark.parametrize("num_renamed", [0, 1])
def test_kill_while_saving_keeps_the_previous_checkpoint(saved: Path, num_renamed: int) -> None:
    renamed: list[Path] = []

    def kill_at_a_rename() -> None:
        def rename(old: Path, new: Path) -> None:
            if len(renamed) == num_renamed:
                os.kill(os.getpid(), signal.SIGKILL)
            renamed.append(new)
            os.rename(old, new)

        checkpoint_io.os.replace = rename  # type: ignore

    assert save_in_a_process(kill_at_a_rename, saved) == -signal.SIGKILL
    assert step_of(saved) == 7
    assert load_config(saved.with_suffix(".yaml")) == (BEFORE, AFTER)[num_renamed]
    assert save_in_a_process(lambda: None, saved) == 0
    assert step_of(saved) == 8
    assert sorted(file.name for file in saved.parent.iterdir()) == ["last.ckpt", "last.yaml"]


def test_file_size_limit_keeps_the_previous_checkpoint(saved: Path) -> None:
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


def test_full_disk_keeps_the_previous_checkpoint_and_is_reported(full_disk: Path) -> None:
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


def test_unpicklable_content_is_not_reported_as_a_disk_error(saved: Path) -> None:
    with pytest.raises(TypeError):
        AtomicCheckpointIO(AFTER).save_checkpoint({"global_step": 8, "stream": sys.stdout}, saved)
    assert step_of(saved) == 7


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_checkpoint_is_corrupt(saved: Path, share: float) -> None:
    assert step_of_checkpoint(saved) == 7
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=rf"^{saved} is corrupt or not a checkpoint"):
        step_of_checkpoint(saved)


def test_file_without_a_step_is_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        step_of_checkpoint(tmp_path / "other.ckpt")


def test_repair_removes_unfinished_files(saved: Path) -> None:
    parts = [saved.with_name("best.ckpt.unfinished"), saved.with_name("last.yaml.unfinished")]
    for part in parts:
        part.touch()
    assert repair_checkpoint_dir(RunDir(saved.parents[1])) == parts
    assert sorted(file.name for file in saved.parent.iterdir()) == ["last.ckpt", "last.yaml"]
    assert repair_checkpoint_dir(RunDir(saved.parent)) == []


def test_equal_checkpoints_take_the_disk_once(tmp_path: Path) -> None:
    writer, changed = AtomicCheckpointIO(BEFORE), {**STATE, "global_step": 8}
    first, last, best = (tmp_path / f"{name}.ckpt" for name in ("step=7", "last", "best"))
    for file in (first, last, best, best):
        writer.save_checkpoint(STATE, file)
    assert first.stat().st_ino == last.stat().st_ino == best.stat().st_ino
    writer.save_checkpoint(changed, last)
    assert [step_of(file) for file in (first, last, best)] == [7, 8, 7]
    assert last.stat().st_nlink == 1
    writer.remove_checkpoint(first)
    assert [step_of(file) for file in (last, best)] == [8, 7]
    names = {f"{name}.{kind}" for name in ("last", "best") for kind in ("ckpt", "yaml")}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_file_system_without_hard_links_keeps_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(checkpoint_io.os, "link", refuse)
    writer, files = AtomicCheckpointIO(BEFORE), [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    for file in files:
        writer.save_checkpoint(STATE, file)
    assert [step_of(file) for file in files] == [7, 7]
    assert files[0].stat().st_ino != files[1].stat().st_ino
