"""DataLoader workers that hang: they open a named pipe without a writer instead of a tar."""

import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from lit_hour.data.datamodule import TimedDataLoader, VideoQADataModule
from lit_hour.data.datasets import DUMMY_INDEX, TrainingDataset, ValidationDataset
from lit_hour.errors import ShardError
from lit_hour.processor import HourLLaVAProcessor
from tests.data.rank_data import data_of_rank
from tests.helpers.toy_run import ToyProject

TIMEOUT_SECONDS = 2


@pytest.fixture
def data(toy: ToyProject, processor: HourLLaVAProcessor, tmp_path: Path) -> VideoQADataModule:
    """A data module with a copy of the shards."""
    folder = shutil.copytree(toy.yaml.parent / "world/train/shards", tmp_path / "shards")
    argv = (
        f"data.sources.world.shards={folder}",
        f"data.val_sources.world.shards={folder}",
        "data.num_workers=2",
    )
    return data_of_rank(
        toy,
        processor,
        *argv,
        f"data.timeout_seconds={TIMEOUT_SECONDS}",
        "data.micro_batch_size=2",
    )


def make_hang(tar: Path) -> None:
    tar.unlink()
    os.mkfifo(tar)


@pytest.mark.parametrize("split", ["train", "val"])
def test_hanging_worker_is_killed_and_its_sample_is_named(
    data: VideoQADataModule, tmp_path: Path, split: str
) -> None:
    make_hang(tmp_path / "shards/000001.tar")
    others = set(multiprocessing.active_children())
    loader, num_read, started = getattr(data, f"{split}_dataloader")(), 0, time.monotonic()
    assert isinstance(loader, TimedDataLoader)
    assert isinstance(loader.dataset, TrainingDataset | ValidationDataset)
    with pytest.raises(
        ShardError, match=r"hangs: no batch within data\.timeout_seconds=2"
    ) as raised:
        for _ in loader:
            num_read += 1
    (awaited,) = list(loader.batch_sampler)[num_read : num_read + 1]
    locations = [loader.dataset.describe_location(index) for index in awaited]
    assert f"It is reading {'; '.join(locations)}. " in str(raised.value)
    assert any(
        f"{tmp_path}/shards/000001.tar: video 'synthetic_0000" in location for location in locations
    )
    assert loader.data_wait_seconds >= TIMEOUT_SECONDS and time.monotonic() - started < 20
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.parametrize(("split", "awaited"), [("train", []), ("val", [DUMMY_INDEX])])
def test_hang_of_a_batch_without_samples_blames_no_file(
    data: VideoQADataModule, split: str, awaited: list[int]
) -> None:
    message = getattr(data, f"{split}_dataloader")()._describe_hang(awaited)
    assert "It is without a sample to read, so no file is at fault." in message
    assert "synthetic_" not in message and "It is reading" not in message


@pytest.mark.slow
def test_slow_training_does_not_time_out_the_workers(data: VideoQADataModule) -> None:
    batches = iter(data.val_dataloader())
    next(batches)
    time.sleep(TIMEOUT_SECONDS + 0.5)
    assert len(list(batches)) == 3


def test_workers_exit_with_their_rank(
    data: VideoQADataModule,
) -> None:
    def exit_while_reading() -> None:
        batches = iter(data.train_dataloader())
        next(batches)
        os.write(
            to_test,
            json.dumps([worker.pid for worker in multiprocessing.active_children()]).encode(),
        )
        sys.exit(75)  # the exception keeps the unfinished `batches` alive

    from_rank, to_test = os.pipe()
    rank = multiprocessing.get_context("fork").Process(target=exit_while_reading)
    rank.start()
    rank.join(20)
    status = rank.exitcode
    rank.kill()
    workers = json.loads(os.read(from_rank, 1000))
    assert status == 75 and len(workers) == 2
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
