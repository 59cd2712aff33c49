import multiprocessing
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from small_run import Small, weights
from torch import nn

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config, RunConfig, TrainingConfig
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.training import strategy
from lit_hour.training.strategy import RunCheckpoints, hardware, precision_plugins

BEFORE, AFTER = Config(run=RunConfig(name="before")), Config(run=RunConfig(name="after"))
WEIGHT = torch.arange(5000.0)
STATE = {"global_step": 7, "state_dict": {"weight": WEIGHT}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of step 7 and its settings."""
    file = tmp_path / "checkpoints" / "last.ckpt"
    RunCheckpoints(BEFORE).save_checkpoint(STATE, file)
    return file


def step_of(file: Path) -> int:
    state = torch.load(file, weights_only=True)
    assert torch.equal(state["state_dict"]["weight"], WEIGHT)
    return state["global_step"]


def save_in_a_process(prepare: Callable[[], None], file: Path) -> int | None:
    """Save step 8 over it, after something was prepared that goes wrong; the exit code."""

    def save() -> None:
        prepare()
        RunCheckpoints(AFTER).save_checkpoint({**STATE, "global_step": 8}, file)

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
    RunCheckpoints(AFTER).remove_checkpoint(saved)
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

        strategy.os.replace = rename  # type: ignore

    assert save_in_a_process(die_at_a_rename, saved) == -signal.SIGKILL
    assert step_of(saved) == 7
    assert load_config(saved.with_suffix(".yaml")) == (BEFORE, AFTER)[num_renamed]
    assert save_in_a_process(lambda: None, saved) == 0
    assert step_of(saved) == 8
    assert sorted(file.name for file in saved.parent.iterdir()) == ["last.ckpt", "last.yaml"]


def test_a_file_that_may_not_grow_leaves_the_one_before(saved: Path) -> None:
    size = saved.stat().st_size // 2
    assert save_in_a_process(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)), saved) == 1
    assert step_of(saved) == 7
    assert load_config(saved.with_suffix(".yaml")) == BEFORE


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that has room for one checkpoint and not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_one_before(full_disk: Path) -> None:
    file = full_disk / "last.ckpt"
    RunCheckpoints(BEFORE).save_checkpoint(STATE, file)
    assert save_in_a_process(lambda: None, file) == 1
    assert step_of(file) == 7
    assert load_config(file.with_suffix(".yaml")) == BEFORE


@pytest.mark.parametrize(("written", "devices"), [("2", 2), ("auto", "auto")])
def test_hardware_is_named_as_lightning_takes_it(written: str, devices: int | str) -> None:
    settings = TrainingConfig(accelerator="cpu", devices=written, num_nodes=3, precision="bf16-mixed")
    assert hardware(settings) == {"accelerator": "cpu", "devices": devices, "num_nodes": 3, "precision": "bf16-mixed"}


def test_in_bfloat16_are_the_weights_and_nothing_else(small: Small) -> None:
    words = ("training.precision=bf16-true", "training.max_steps=2", "training.validate_every_steps=2")
    outcome = small.fit("bfloat16", *words)
    assert 0 < outcome.scores["validation/loss"] < 10
    assert {weight.dtype for weight in weights(outcome.run).values()} == {torch.bfloat16}
    assert hardware(small.config("none", *words).training)["precision"] is None
    module = nn.Module()
    module.model = HourLLaVA(small.config("none"), vocabulary_size=300)
    before = module.model.language.network.model.rotary_emb.inv_freq
    (plugin,) = precision_plugins(small.config("none", *words).training)
    plugin.convert_module(module)
    after = module.model.language.network.model.rotary_emb.inv_freq
    assert module.model.frame_end.dtype == torch.bfloat16 and torch.equal(after, before)
