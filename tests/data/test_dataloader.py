"""Workers that hang for real: the tar that they open has become a pipe that nobody writes to."""

import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from lit_hour.data.dataloader import TimedDataLoader
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.errors import ShardError
from lit_hour.processor import HourLLaVAProcessor
from tests.data.ranks import data_of_rank
from tests.helpers.toy_run import ToyProject

TIMEOUT_SECONDS = 2


@pytest.fixture
def data(toy: ToyProject, processor: HourLLaVAProcessor, tmp_path: Path) -> VideoQADataModule:
    """Of shards that a test may damage."""
    folder = shutil.copytree(toy.yaml.parent / "world/train/shards", tmp_path / "shards")
    words = (
        f"data.sources.world.shards={folder}",
        f"data.val_sources.world.shards={folder}",
        "data.num_workers=2",
    )
    return data_of_rank(
        toy,
        processor,
        *words,
        f"data.timeout_seconds={TIMEOUT_SECONDS}",
        "data.micro_batch_size=2",
    )


def make_hang(tar: Path) -> None:
    tar.unlink()
    os.mkfifo(tar)


@pytest.mark.parametrize("kind", ["train", "val"])
def test_a_worker_that_hangs_is_ended_and_what_it_reads_is_named(
    data: VideoQADataModule, tmp_path: Path, kind: str
) -> None:
    make_hang(tmp_path / "shards/000001.tar")
    others = set(multiprocessing.active_children())
    loader, num_read, started = getattr(data, f"{kind}_dataloader")(), 0, time.monotonic()
    assert isinstance(loader, TimedDataLoader)
    with pytest.raises(
        ShardError, match=r"hangs: no batch within data\.timeout_seconds=2"
    ) as refusal:
        for _ in loader:
            num_read += 1
    (awaited,) = list(loader.batch_sampler)[num_read : num_read + 1]
    places = [loader.dataset.describe_location(index) for index in awaited]
    assert f"It is reading {'; '.join(places)}. " in str(refusal.value)
    assert any(f"{tmp_path}/shards/000001.tar: video 'synthetic_0000" in place for place in places)
    assert loader.data_wait_seconds >= TIMEOUT_SECONDS and time.monotonic() - started < 20
    assert set(multiprocessing.active_children()) <= others


def test_a_reader_that_waits_for_its_caller_is_not_timed_out(data: VideoQADataModule) -> None:
    batches = iter(data.val_dataloader())
    next(batches)
    time.sleep(TIMEOUT_SECONDS + 0.5)
    assert len(list(batches)) == 3


def test_workers_that_still_have_something_to_read_end_with_their_rank(
    data: VideoQADataModule,
) -> None:
    def leave_in_the_midst() -> None:
        batches = iter(data.train_dataloader())
        next(batches)
        os.write(
            to_test,
            json.dumps([worker.pid for worker in multiprocessing.active_children()]).encode(),
        )
        sys.exit(75)  # `batches` is not at its end, and lives as long as this exception

    from_rank, to_test = os.pipe()
    rank = multiprocessing.get_context("fork").Process(target=leave_in_the_midst)
    rank.start()
    rank.join(20)
    status = rank.exitcode
    rank.kill()
    workers = json.loads(os.read(from_rank, 1000))
    assert status == 75 and len(workers) == 2
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
