"""The folder of a sharded checkpoint is complete or absent, whatever happens while it is
written."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config, RunConfig
from lit_hour.errors import RunError
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints import checkpoint_io
from lit_hour.training.checkpoints.checkpoint_io import (
    AtomicCheckpointIO,
    repair_checkpoint_dir,
    write_sharded,
)
from lit_hour.training.checkpoints.resume import find_resume_point
from lit_hour.weights.reader import open_weights, read_checkpoint
from tests.training.checkpoints.helpers import content_of, run_in_a_rank

BEFORE, AFTER = Config(run=RunConfig(name="before")), Config(run=RunConfig(name="after"))
TOO_LARGE = 7  # exit code


def save_in_a_process(
    config: Config, step: int, path: Path, prepare: Callable[[], None] = lambda: None
) -> int | None:
    """Save a step in a forked rank after calling `prepare` there, and return its exit code."""

    def save() -> None:
        weights = {"bias": torch.zeros(10), "weight": torch.full((5000,), float(step))}
        content = content_of(weights, step)
        prepare()
        try:
            write_sharded(path, content, config)
        except RunError as error:
            assert (
                str(path) in str(error)
                and "could not be saved" in str(error)
                and "File too large" in str(error)
            )
            os._exit(TOO_LARGE)

    return run_in_a_rank(save)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with a sharded checkpoint of step 7."""
    run = RunDir(tmp_path)
    assert save_in_a_process(BEFORE, 7, run.checkpoints / "last.ckpt") == 0
    return run


def step_of(run: RunDir) -> int:
    """Return the step of the newest checkpoint and check that its weights are from this step."""
    repair_checkpoint_dir(run)
    path = find_resume_point(run).checkpoint
    assert path == run.checkpoints / "last.ckpt"
    step = read_checkpoint(path)["global_step"]
    assert torch.equal(open_weights(path).read("weight"), torch.full((5000,), float(step)))
    return step


def test_sharded_checkpoint_is_replaced_and_removed_with_its_settings(run: RunDir) -> None:
    assert step_of(run) == 7
    assert load_config(run.checkpoints / "last.yaml") == BEFORE
    assert save_in_a_process(AFTER, 8, run.checkpoints / "last.ckpt") == 0
    assert step_of(run) == 8
    assert load_config(run.checkpoints / "last.yaml") == AFTER
    assert sorted(file.name for file in run.checkpoints.iterdir()) == ["last.ckpt", "last.yaml"]
    AtomicCheckpointIO(AFTER).remove_checkpoint(run.checkpoints / "last.ckpt")
    assert list(run.checkpoints.iterdir()) == []


@pytest.mark.parametrize(("num_renamed", "step"), [(0, 7), (1, 7), (2, 7), (3, 8)])
def test_kill_while_replacing_leaves_one_intact_checkpoint(
    run: RunDir, num_renamed: int, step: int
) -> None:
    def kill_at_a_rename() -> None:
        rename, remove = os.rename, os.unlink
        renamed: list[Path] = []

        def count(old: Path, new: Path) -> None:
            if len(renamed) == num_renamed:
                os.kill(os.getpid(), signal.SIGKILL)
            renamed.append(new)
            rename(old, new)

        def count_removed(path: Path, **named: int | None) -> None:
            if len(renamed) == num_renamed:
                os.kill(os.getpid(), signal.SIGKILL)
            remove(path, **named)

        os.rename = os.replace = count  # type: ignore[assignment]
        os.unlink = count_removed  # type: ignore[assignment]

    path = run.checkpoints / "last.ckpt"
    assert save_in_a_process(AFTER, 8, path, kill_at_a_rename) == -signal.SIGKILL
    assert step_of(run) == step
    assert save_in_a_process(AFTER, 9, path) == 0
    assert step_of(run) == 9
    assert sorted(file.name for file in run.checkpoints.iterdir()) == ["last.ckpt", "last.yaml"]


def test_file_size_limit_keeps_the_previous_checkpoint(run: RunDir) -> None:
    def forbid() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    assert save_in_a_process(AFTER, 8, run.checkpoints / "last.ckpt", forbid) == TOO_LARGE
    assert step_of(run) == 7
    assert load_config(run.checkpoints / "last.yaml") == BEFORE


def test_single_file_and_sharded_checkpoints_replace_each_other(run: RunDir) -> None:
    path = run.checkpoints / "last.ckpt"
    checkpoint = {"global_step": 8, "state_dict": {"model.weight": torch.full((5000,), 8.0)}}
    AtomicCheckpointIO(AFTER).save_checkpoint(checkpoint, path)
    assert path.is_file() and step_of(run) == 8
    assert save_in_a_process(AFTER, 9, path) == 0
    assert path.is_dir() and step_of(run) == 9
    assert sorted(file.name for file in run.checkpoints.iterdir()) == ["last.ckpt", "last.yaml"]


def test_partly_removed_checkpoint_is_ignored_and_removed(run: RunDir) -> None:
    (run.checkpoints / "last.ckpt").rename(run.checkpoints / "last.ckpt.removed")
    assert find_resume_point(run).checkpoint is None
    repair_checkpoint_dir(run)
    assert not list(run.checkpoints.glob("*.ckpt*"))


def test_large_shards_are_split_into_several_files(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_io, "FILE_BYTES", 15_000)
    path = run.checkpoints / "last.ckpt"
    assert save_in_a_process(AFTER, 8, path) == 0
    assert sorted(file.name for file in path.glob("shard-*")) == [
        f"shard-00001-model-0000{number}-of-00002.safetensors" for number in (1, 2)
    ]
    assert step_of(run) == 8
    meta_tensors = open_weights(path).meta_tensors
    assert {name: tuple(meta.shape) for name, meta in meta_tensors.items()} == {
        "bias": (10,),
        "weight": (5000,),
    }
