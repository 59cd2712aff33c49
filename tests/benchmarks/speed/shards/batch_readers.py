"""Time passes over shards: through the data module, and by bare loops that set the limit.

Every pass returns a checksum of what it has read, which must be equal for all readers.
"""

from __future__ import annotations

import io
import multiprocessing
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_hour.config.load import load_config
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.data.features.format import LENGTH_BYTES
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Batch, Features, Frames
from tests.benchmarks.speed.shards.write_shards import SIZE_PIXELS, drop_page_cache

FORK = multiprocessing.get_context("fork")
MemberLocation = tuple[Path, int, int]  # tar, offset of the member's content, size in bytes
SUM_MODULUS = 2**63
PIXEL_STRIDE = 16  # pixels and lines in the checksum; enough, as an image is decoded as a whole


@dataclass(frozen=True)
class Pass:
    """Duration and checksum of one pass over all samples."""

    seconds: float
    checksum: int


def checksum_of(tensor: Tensor) -> int:
    """Return the sum of a tensor's 64-bit words modulo `SUM_MODULUS`, at the speed of memory."""
    return int(tensor.contiguous().view(-1).view(torch.int64).sum()) % SUM_MODULUS


def data_module(folder: Path, num_workers: int) -> VideoQADataModule:
    """Return a data module for one pass as in training, with one sample per batch."""
    overrides = [
        f"data.sources.noise.shards={folder}",
        f"video.image_size={SIZE_PIXELS}",
        f"data.num_workers={num_workers}",
        "data.global_batch_size=1",
        "training.learning_rate.vision=0",
    ]
    config = load_config(overrides=overrides)
    tokenizer = train_byte_level_tokenizer(["What is on the stove?"], 300)
    data = VideoQADataModule(config, HourLLaVAProcessor(tokenizer, config.text))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0)  # type: ignore[assignment]
    return data


def read_batches(folder: Path, num_workers: int) -> Pass:
    """Time a pass of the data module, from the start of the workers to the last batch."""
    loader = data_module(folder, num_workers).train_dataloader()
    started, checksum = time.perf_counter(), 0
    for batch in loader:
        checksum += batch_checksum(batch)
        seconds = time.perf_counter() - started  # excludes the shutdown of the workers
    return Pass(seconds, checksum % SUM_MODULUS)


def batch_checksum(batch: Batch) -> int:
    """Return the checksum of the video of a batch."""
    assert not batch.skipped, batch.skipped[0].reason
    (visual,) = batch.visuals
    if isinstance(visual, Frames):
        return int(visual.images[:, :, ::PIXEL_STRIDE, ::PIXEL_STRIDE].sum())
    assert isinstance(visual, Features)
    return checksum_of(visual.tokens)


def find_members(folder: Path, suffix: str) -> list[MemberLocation]:
    """Return the locations of the tar members with a suffix."""
    locations = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            chosen = [member for member in tar if member.name.endswith(suffix)]
            locations += [(path, member.offset_data, member.size) for member in chosen]
    return locations


def read_bare(
    read_share: Callable[[list[MemberLocation]], int],
    locations: list[MemberLocation],
    num_processes: int,
) -> Pass:
    """Time a pass by bare loops, in this process or in several that share the members evenly."""
    started = time.perf_counter()
    if not num_processes:
        checksum = read_share(locations)
        return Pass(time.perf_counter() - started, checksum % SUM_MODULUS)
    shares = [locations[number::num_processes] for number in range(num_processes)]
    with ProcessPoolExecutor(num_processes, FORK) as processes:
        checksum = sum(processes.map(read_share, shares))
        seconds = time.perf_counter() - started
    return Pass(seconds, checksum % SUM_MODULUS)


def decode_members(locations: list[MemberLocation]) -> int:
    """Read every JPEG, decode it with PIL to a new array, and return the checksum."""
    checksum = 0
    for path, offset, size in locations:
        with path.open("rb", buffering=0) as tar:
            tar.seek(offset)
            with Image.open(io.BytesIO(tar.read(size)), formats=["JPEG"]) as image:
                checksum += int(np.array(image)[::PIXEL_STRIDE, ::PIXEL_STRIDE].sum())
    return checksum


def read_members(locations: list[MemberLocation]) -> int:
    """Read the tokens of every video into new memory without checks, and return the checksum."""
    checksum = 0
    for path, offset, size in locations:
        with path.open("rb", buffering=0) as tar:
            tar.seek(offset)
            start = LENGTH_BYTES + int.from_bytes(tar.read(LENGTH_BYTES), "little")
            tar.seek(offset + start)
            tokens = torch.empty(size - start, dtype=torch.uint8)  # (bytes,)
            assert tar.readinto(memoryview(tokens.numpy())) == len(tokens)  # type: ignore[attr-defined]
            checksum += checksum_of(tokens)
    return checksum


LIMITS = {"frames": ("jpg", decode_members), "features": ("safetensors", read_members)}


def read_alternately(
    folder: Path, kind: str, num_workers: int, num_passes: int
) -> dict[tuple[str, str], list[Pass]]:
    """Time the data module and the bare loop in alternation; to be called in a new process.

    Returns:
        The passes by reader ("ours" or "limit") and page cache ("cold" or "warm").
    """
    multiprocessing.set_start_method("fork", force=True)  # start method of the workers
    torch.set_num_threads(1)
    suffix, read_share = LIMITS[kind]
    readers = {
        "ours": partial(read_batches, folder, num_workers),
        "limit": partial(read_bare, read_share, find_members(folder, suffix), num_workers),
    }
    found: dict[tuple[str, str], list[Pass]] = {}
    for number in range(num_passes):
        for reader, read in readers.items():
            temperature = "warm" if number else "cold"
            if temperature == "cold":
                drop_page_cache(folder)
            found.setdefault((reader, temperature), []).append(read())
    return found


def measure_worker_memory(folder: Path, num_workers: int) -> float:
    """Return the peak memory in MB of all workers of a pass together, above that at their start."""
    multiprocessing.set_start_method("fork", force=True)
    initial: dict[int, int] = {}
    peak, done = 0, threading.Event()

    def poll() -> None:
        nonlocal peak
        while not done.wait(0.002):
            current = {
                worker.pid: _private_kilobytes(worker.pid)
                for worker in multiprocessing.active_children()
                if worker.pid
            }
            for pid, kilobytes in current.items():
                initial.setdefault(pid, kilobytes)
            peak = max(peak, sum(current[pid] - initial[pid] for pid in current))

    poller = threading.Thread(target=poll)
    poller.start()
    read_batches(folder, num_workers)
    done.set()
    poller.join()
    return peak / 1e3


def _private_kilobytes(pid: int) -> int:
    """Return the anonymous and shared memory of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
