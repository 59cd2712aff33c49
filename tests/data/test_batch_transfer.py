"""Batches from real workers: equal, in memory that is reused, and never while a batch is in use."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_hour.data.batch_transfer import MAX_INLINE_BYTES, SentBatch, prepare_to_send
from lit_hour.data.datamodule import TimedDataLoader
from lit_hour.data.shared_arena import empty_shared
from lit_hour.types import Batch, Features, Frames, ImageSet, TiledImage

SIDE, MAX_FRAMES = 64, 16
BLOCK_BYTES = MAX_FRAMES * 3 * SIDE * SIDE
ARENA_BYTES = 16 * BLOCK_BYTES


def make_images(index: int) -> Tensor:
    """Return the pixels of a sample, another number of frames for each."""
    generator = torch.Generator().manual_seed(index)
    shape = (1 + index * 7 % MAX_FRAMES, 3, SIDE, SIDE)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)  # (frames, ...)


class Videos(Dataset[Tensor | None]):
    """Frames decoded into memory of `empty_shared`; some samples cannot be read."""

    def __init__(self, *broken: int) -> None:
        self.broken = broken

    def __getitem__(self, index: int) -> Tensor | None:
        expected = make_images(index)
        images = empty_shared(tuple(expected.shape), torch.uint8).copy_(expected)
        return None if index in self.broken else images


def make_batch(read: list[Tensor | None]) -> Batch | SentBatch:
    """Collate samples, with tensors of all other kinds beside the frames."""
    images = [one for one in read if one is not None]
    total = sum(int(one.sum()) for one in images)
    numbers = torch.arange(total, total + 12).view(3, 4)  # (texts, tokens)
    large = torch.arange(MAX_INLINE_BYTES).view(2, -1, 8).to(torch.bfloat16)  # (frames, tokens, 8)
    return prepare_to_send(
        Batch(
            keys=("a", "b"),
            visuals=(
                *(Frames(one, torch.arange(len(one)) / 2) for one in images),
                Features(large, torch.empty(0)),
                None,
            ),
            visual_of_text=(0, 0, 1),
            input_ids=numbers,
            labels=numbers.t(),
            question_mask=numbers % 2 == 0,
            attention_mask=torch.tensor(True),
            questions=((), (), ()),
        )
    )


def load(
    indices: list[int], num_workers: int, arena_bytes: int = ARENA_BYTES, **settings: Any
) -> TimedDataLoader:
    loader = TimedDataLoader(
        settings.pop("dataset", Videos()),
        sampler=indices,
        batch_size=settings.pop("batch_size", 1),
        collate_fn=make_batch,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        **settings,
    )
    loader.arena_bytes = arena_bytes
    return loader


def images_of(batch: Batch) -> list[Tensor]:
    return [visual.images for visual in batch.visuals if isinstance(visual, Frames)]


def assert_equal(batch: Batch, indices: list[int]) -> None:
    assert isinstance(batch, Batch)
    expected = make_batch([make_images(index) for index in indices])
    assert isinstance(expected, Batch)
    assert (batch.keys, batch.questions) == (expected.keys, expected.questions)
    for found, true in zip(tensors_of(batch), tensors_of(expected), strict=True):
        assert found.dtype == true.dtype and torch.equal(found, true)


def tensors_of(batch: Batch) -> list[Tensor]:
    visuals = [
        tensor
        for visual in batch.visuals
        if isinstance(visual, Frames | Features)
        for tensor in vars(visual).values()
    ]
    texts = [batch.input_ids, batch.labels, batch.question_mask, batch.attention_mask]
    return [*visuals, *texts]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("arena_bytes", [0, 2 * BLOCK_BYTES, ARENA_BYTES])
def test_batches_are_equal_with_and_without_an_arena(num_workers: int, arena_bytes: int) -> None:
    loader = load(list(range(12)), num_workers, arena_bytes, batch_size=2)
    for number, batch in enumerate(loader):
        assert_equal(batch, [2 * number, 2 * number + 1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_is_reused(num_workers: int) -> None:
    loader, taken = load([15] * 80, num_workers), 0
    for batch in loader:
        block_bytes = [-(-tensor.nbytes // 4096) * 4096 for tensor in tensors_of(batch)]
        taken = sum(512 * os.fstat(arena._file.fileno()).st_blocks for arena in loader._arenas)
        del batch
    # two that are prefetched, one in use, one of the worker, and as much in gaps
    assert 0 < taken <= 8 * max(num_workers, 1) * sum(block_bytes)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_that_are_kept_stay_as_they_are(num_workers: int) -> None:
    kept = list(load(list(range(60)), num_workers, 4 * BLOCK_BYTES))  # more than the arenas hold
    for index, batch in enumerate(kept):
        assert_equal(batch, [index])


def test_a_deep_prefetch_does_not_overwrite_batches() -> None:
    kept = []
    for index, batch in enumerate(load(list(range(50)), 2, prefetch_factor=8)):
        kept.append(batch)
        time.sleep(0.002 * (index % 5))
        if len(kept) > 3:
            assert_equal(kept.pop(0), [index - 3])
    for index, batch in enumerate(kept, start=47):
        assert_equal(batch, [index])


def test_training_and_validation_loaders_alternate() -> None:
    training, validation = load(list(range(40)), 2), load(list(range(100, 106)), 2)
    for index, batch in enumerate(training):
        if index % 10 == 5:  # a training batch is in use while validation runs
            for number, other in enumerate(validation):
                assert_equal(other, [100 + number])
        assert_equal(batch, [index])


def test_an_iteration_that_ends_early_frees_what_was_prefetched() -> None:
    loader = load(list(range(20)), 2, 6 * BLOCK_BYTES)
    for _ in range(8):
        for index, batch in enumerate(loader):
            assert_equal(batch, [index])
            if index == 3:
                break
    for index, batch in enumerate(loader):
        assert_equal(batch, [index])
    del batch
    assert all(set(arena._sizes) == {0} for arena in loader._arenas)
    taken = sum(512 * os.fstat(arena._file.fileno()).st_blocks for arena in loader._arenas)
    assert taken < 3 * BLOCK_BYTES  # the last batch was in use when the others were returned


def test_batches_may_be_received_and_dropped_in_other_threads() -> None:
    received: queue.Queue[Batch | None] = queue.Queue()

    def receive() -> None:  # as torch's thread for pinned memory
        for batch in load(list(range(40)), 2):
            received.put(batch)
        received.put(None)

    thread = threading.Thread(target=receive)
    thread.start()
    for index, batch in enumerate(iter(lambda: received.get(timeout=60), None)):
        assert_equal(batch, [index])
    thread.join()


def test_samples_that_cannot_be_read_leave_no_block_behind() -> None:
    loader = load(list(range(40)), 2, dataset=Videos(*range(0, 40, 2)), batch_size=2)
    for number, batch in enumerate(loader):
        assert_equal(batch, [2 * number + 1])
    del batch
    assert all(set(arena._sizes) == {0} for arena in loader._arenas)


def test_all_tensors_of_a_batch_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []

    def pin(tensor: Tensor) -> Tensor:  # stands in for a GPU
        pinned.append(tensor.clone())
        return pinned[-1]

    (batch,) = load([3], 1)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    copy = batch.pin_memory()
    assert_equal(copy, [3])
    assert [tensor.data_ptr() for tensor in tensors_of(copy)] == [one.data_ptr() for one in pinned]
    images = TiledImage(torch.zeros(5, 3, 2, 2), (2, 2), (9, 9)), ImageSet(torch.zeros(2, 3, 2, 2))
    for image in images:
        pinned.clear()
        assert len(image.pin_memory()) == len(image) and len(pinned) == 1


def kill_one_worker(signal_number: int) -> None:
    workers = [
        worker
        for worker in multiprocessing.active_children()
        if worker.pid and "Name:\tpt_data_worker" in Path(f"/proc/{worker.pid}/status").read_text()
    ]
    os.kill(workers[0].pid, signal_number)  # type: ignore[arg-type]


def test_a_killed_worker_is_noticed_when_the_error_of_the_signal_handler_is_lost() -> None:
    batches = iter(load([0, 1, 2, 3, 4, 5], num_workers=1, timeout=0.5))
    next(batches)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        kill_one_worker(signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
            list(batches)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_worker_killed_while_its_batch_is_received_is_noticed() -> None:
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.5,))
    worker.start()

    class Receiving:
        """The end of the worker is visible only after the error of its connection."""

        _workers = (worker,)

        def __next__(self) -> Batch:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid {worker.pid}\) was killed"):
        load([0], 1)._next_batch(Receiving(), [0])  # type: ignore[arg-type]
    worker.join()


def test_a_killed_worker_is_reported_and_its_batches_stay() -> None:
    batches = iter(load(list(range(50)), 2))
    kept = [next(batches) for _ in range(4)]
    kill_one_worker(signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        for batch in batches:
            kept.append(batch)
            time.sleep(0.1)
    for index, batch in enumerate(kept):
        assert_equal(batch, [index])


@pytest.mark.slow
def test_spawned_workers_map_the_arena() -> None:
    loader = load(list(range(12)), 1, multiprocessing_context="spawn")
    addresses = set()
    for index, batch in enumerate(loader):
        assert_equal(batch, [index])
        addresses |= {images.data_ptr() for images in images_of(batch)}
    assert len(addresses) < 12


TRAINER = """
import json, multiprocessing, sys, time
from tests.data.test_batch_transfer import load
batches = iter(load([15] * 1000, 2))
kept = [next(batches) for _ in range(int(sys.argv[1]))]
print(json.dumps([worker.pid for worker in multiprocessing.active_children()]), flush=True)
for number, batch in enumerate(batches):
    time.sleep(0.01)
"""


@pytest.fixture
def trainer() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, "3"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    yield process
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()


@pytest.mark.slow
def test_a_killed_trainer_leaves_neither_workers_nor_shared_memory(
    trainer: subprocess.Popen[str],
) -> None:
    assert trainer.stdout is not None
    workers = json.loads(trainer.stdout.readline())
    trainer.kill()
    trainer.wait()
    ended = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < ended, "workers outlive their rank"
        time.sleep(0.2)
    pids = {str(pid) for pid in (trainer.pid, *workers)}
    assert not [path for path in Path("/dev/shm").iterdir() if pids & set(path.name.split("_"))]


@pytest.mark.slow
@pytest.mark.parametrize("arena_bytes", [ARENA_BYTES, 0])
def test_frames_need_no_space_in_dev_shm(arena_bytes: int) -> None:
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a small /dev/shm needs a mount namespace")
    script = (
        "from tests.data.test_batch_transfer import *\\n"
        f"for index, batch in enumerate(load([15] * 30, 2, {arena_bytes})):\\n"
        "    assert_equal(batch, [15])\\n"
        "print('read', index + 1)"
    )
    command = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" -c "$(printf "$1")"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if arena_bytes:
        assert done.stdout.strip() == "read 30", done.stderr
    else:
        assert "Caught RuntimeError in DataLoader worker process" in done.stderr
        assert "unable to allocate shared memory(shm)" in done.stderr and done.returncode == 1
