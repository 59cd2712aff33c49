"""Data that has changed since a checkpoint is rejected, unless a setting allows it."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_hour.data.sources import CONVERSATIONS_KEY, ORDER_KEYS
from lit_hour.errors import ConfigError, ShardError
from lit_hour.processor import HourLLaVAProcessor
from tests.data.rank_data import data_of_rank, finish_step, resume
from tests.helpers.toy_run import StepRecorder, StoppedError, ToyProject


@pytest.fixture
def world(toy: ToyProject, tmp_path: Path) -> Path:
    """A copy of the toy run's two shards."""
    return shutil.copytree(toy.yaml.parent / "world/train/shards", tmp_path / "shards")


def change_shard(folder: Path) -> None:
    """Make the first shard look as if it was packed from something else."""
    index = folder / "000000.json"
    index.write_text(index.read_text().replace(json.loads(index.read_text())["sha256"], "0" * 64))


def remove_shard(folder: Path) -> None:
    (folder / "000001.tar").unlink()
    (folder / "000001.json").unlink()
    set_num_shards(folder, 1)


def add_shard(folder: Path) -> None:
    shutil.copy(folder / "000000.tar", folder / "000002.tar")
    (folder / "000002.json").write_text(
        (folder / "000000.json").read_text().replace("000000.tar", "000002.tar")
    )
    set_num_shards(folder, 3)


def set_num_shards(folder: Path, num_shards: int) -> None:
    totals = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**totals, "num_shards": num_shards}))


def state_of(toy: ToyProject, processor: HourLLaVAProcessor, *argv: str) -> dict[str, Any]:
    data = data_of_rank(toy, processor, *argv)
    finish_step(data)
    return data.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_shard, "source 'world': 1 shard is changed (000000.tar)"),
        (remove_shard, "source 'world': 1 shard is gone (000001.tar)"),
        (add_shard, "source 'world': 1 shard is new (000002.tar)"),
    ],
)
def test_changed_shards_are_rejected_by_name(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    world: Path,
    change: Callable[[Path], None],
    message: str,
) -> None:
    override = f"data.sources.world.shards={world}"
    state = state_of(toy, processor, override)
    change(world)
    data = data_of_rank(toy, processor, override)
    with pytest.raises(ShardError) as raised:
        data.load_state_dict(state)
    assert str(raised.value).startswith(
        f"The data has changed since the checkpoint: {message}. Set it back, or continue"
    )
    assert data.progress == (0, 0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.length_balance_window=2", "data.length_balance_window was 1, is 2"),
        ("data.global_batch_size=4", "data.global_batch_size was 2, is 4"),
        ("data.questions_per_sample=3", "data.questions_per_sample was 2, is 3"),
        ("data.conversations_per_video=2", "data.conversations_per_video was 1, is 2"),
        ("data.conversations_per_video=0", "data.conversations_per_video was 1, is 0"),
        ("data.shuffle_shards=3", "data.shuffle_shards was 4, is 3"),
        ("run.seed=5", "run.seed was 0, is 5"),
        ("data.sources.world.weight=0.5", "data.sources.world.weight was 1.0, is 0.5"),
        ("data.sources.copy.weight=0", "source 'copy' is gone"),
        ("data.sources.more.shards=WORLD", "source 'more' is new"),
    ],
)
def test_changed_settings_and_sources_are_rejected_by_name(
    toy: ToyProject,
    processor: HourLLaVAProcessor,
    two_sources: list[str],
    world: Path,
    override: str,
    message: str,
) -> None:
    data = data_of_rank(toy, processor, *two_sources, override.replace("WORLD", str(world)))
    with pytest.raises(
        ShardError,
        match=rf"changed since the checkpoint: {re.escape(message)}.*data\.on_data_change=warn",
    ):
        data.load_state_dict(state_of(toy, processor, *two_sources))


def test_fingerprint_with_one_conversation_equals_that_of_older_checkpoints(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    state = state_of(toy, processor)
    assert state["fingerprint"]["config"].keys() == set(ORDER_KEYS)
    assert CONVERSATIONS_KEY not in ORDER_KEYS
    forgetting = "model.memaug.max_kept_frames=7"  # does not determine the order
    data = data_of_rank(toy, processor, "data.conversations_per_video=1", forgetting)
    resume(data, state)
    assert data.progress == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.conversations_per_video=1", "data.conversations_per_video was 2, is 1"),
        ("data.conversations_per_video=3", "data.conversations_per_video was 2, is 3"),
        ("model.memaug.max_kept_frames=7", "model.memaug.max_kept_frames was 512, is 7"),
        ("text.max_tokens=5000", None),
    ],
)
def test_order_of_several_conversations_depends_on_what_forgetting_keeps(
    toy: ToyProject, processor: HourLLaVAProcessor, override: str, message: str | None
) -> None:
    several = "data.conversations_per_video=2"
    state = state_of(toy, processor, several)
    data = data_of_rank(toy, processor, several, override)
    if message is None:
        data.load_state_dict(state)
        return
    with pytest.raises(ShardError, match=rf"since the checkpoint: {re.escape(message)}[;.]"):
        data.load_state_dict(state)


def test_location_workers_and_micro_batch_size_may_change(
    toy: ToyProject, processor: HourLLaVAProcessor, world: Path, tmp_path: Path
) -> None:
    state = state_of(toy, processor)
    other = (
        f"data.sources.world.shards={world}",
        "data.num_workers=2",
        "data.micro_batch_size=2",
        "training.max_steps=50",
    )
    absent = ("data.sources.absent.shards=/nowhere", "data.sources.absent.weight=0")
    data = data_of_rank(toy, processor, *other, *absent)
    resume(data, state)
    assert data.progress == (1, 2)


def test_many_changed_shards_are_counted(toy: ToyProject, processor: HourLLaVAProcessor) -> None:
    state = state_of(toy, processor)
    shards = state["fingerprint"]["sources"]["world"]["shards"]
    state["fingerprint"]["sources"]["world"]["shards"] = {
        f"{number:06d}.tar": ["0", 1] for number in range(100, 130)
    }
    with pytest.raises(
        ShardError, match=r"30 shards are gone \(000100\.tar, .*000104\.tar, and 25 more\)"
    ) as raised:
        data_of_rank(toy, processor).load_state_dict(state)
    assert f"{len(shards)} shards are new (000000.tar, 000001.tar)" in str(raised.value)


def test_on_data_change_warn_continues_and_logs(
    toy: ToyProject, processor: HourLLaVAProcessor, world: Path, caplog: pytest.LogCaptureFixture
) -> None:
    override = f"data.sources.world.shards={world}"
    state = state_of(toy, processor, override)
    remove_shard(world)
    data = data_of_rank(toy, processor, override, "data.on_data_change=warn")
    with caplog.at_level(logging.WARNING, "lit_hour"):
        resume(data, state)
    assert (
        "since the checkpoint (data.on_data_change=warn): source 'world': 1 shard is gone "
        "(000001.tar)" in caplog.text
    )
    assert next(iter(data.train_dataloader())).positions == (2,)
    assert (
        data.state_dict()["fingerprint"] != state["fingerprint"]
    )  # the next checkpoint records the new shards


def test_checkpoint_without_fingerprint_is_rejected(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    old = {"step": 3, "position": 6}
    with pytest.raises(
        ShardError,
        match=r"the checkpoint does not record its data\. .*data\.on_data_change=warn",
    ):
        data_of_rank(toy, processor).load_state_dict(old)
    data = data_of_rank(toy, processor, "data.on_data_change=warn")
    resume(data, old)
    assert next(iter(data.train_dataloader())).positions == (6,)


def test_run_with_changed_data_is_rejected_before_training(
    toy: ToyProject, step_recorder: StepRecorder, world: Path
) -> None:
    override = f"data.sources.world.shards={world}"
    step_recorder.stop_after_batches = 9
    with pytest.raises(StoppedError):
        toy.fit("changed", override)
    change_shard(world)
    step_recorder.positions, step_recorder.stop_after_batches = [], None
    before = torch.load(toy.run_dir("changed").checkpoint("last"), weights_only=True)["global_step"]
    with pytest.raises(ShardError, match=r"1 shard is changed \(000000\.tar\)"):
        toy.fit("changed", override)
    assert step_recorder.positions == []
    toy.fit("changed", override, "data.on_data_change=warn")
    assert step_recorder.positions[0] == 2 * before


def test_more_ranks_than_samples_are_rejected(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    data = data_of_rank(toy, processor, "data.global_batch_size=64", num_ranks=64)
    num_samples = data.mixed_order.num_samples
    with pytest.raises(
        ConfigError,
        match=rf"One pass over data\.sources has {num_samples} samples, "
        r"but 64 ranks .* compute 64 .*fewer ranks",
    ):
        data.micro_batches_per_step(64)
    assert data.micro_batches_per_step(4) == 16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batches_per_step=4", "data.batches_per_step was 2, is 4"),
        ("data.tokens_per_batch=600", "data.tokens_per_batch was 500, is 600"),
        ("training.packing=true", "training.packing was False, is True"),
        ("data.min_bytes_per_token=1", "data.min_bytes_per_token was 2.0, is 1.0"),
        ("text.max_tokens=999", "text.max_tokens was 32768, is 999"),
        ("text.frame_times=text", "text.frame_times was 'off', is 'text'"),
        ("model.memaug.max_kept_frames=3", "model.memaug.max_kept_frames was 512, is 3"),
    ],
)
def test_changed_settings_of_a_budget_are_rejected_by_name(
    toy: ToyProject, processor: HourLLaVAProcessor, override: str, message: str
) -> None:
    budget = ("data.tokens_per_batch=500", "data.batches_per_step=2")
    state = state_of(toy, processor, *budget)
    with pytest.raises(ShardError, match=rf"since the checkpoint: {re.escape(message)}\. Set"):
        data_of_rank(toy, processor, *budget, override).load_state_dict(state)
    data = data_of_rank(toy, processor, *budget, "data.global_batch_size=8")  # it is not used
    data.load_state_dict(state)


def test_a_budget_in_place_of_a_number_of_samples_is_a_change(
    toy: ToyProject, processor: HourLLaVAProcessor
) -> None:
    budget = ("data.tokens_per_batch=500", "data.batches_per_step=2")
    for before, now, change in (((), budget, "was 0, is 500"), (budget, (), "was 500, is 0")):
        state = state_of(toy, processor, *before)
        with pytest.raises(
            ShardError, match=rf"since the checkpoint: data\.tokens_per_batch {change}\. Set"
        ):
            data_of_rank(toy, processor, *now).load_state_dict(state)
        resume(data_of_rank(toy, processor, *now, "data.on_data_change=warn"), state)
