"""Shards in; seconds of one pass out: through the real data module, and by bare loops that set the limit.

Every pass ends with the same number, a sum over what was read, so that nobody is quicker for having read less.
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
from lit_hour.data.datamodule import VideoQuestionData
from lit_hour.data.features.format import LENGTH_BYTES
from lit_hour.processor import Processor
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Batch, Features, Frames
from tests.benchmarks.speed.shards.write_shards import SIZE_PIXELS, drop_from_memory

FORK = multiprocessing.get_context("fork")
Place = tuple[Path, int, int]  # a tar, and where in it a member's content starts and how long it is
SUM_MODULUS = 2**63
EACH = 16  # a pixel of so many in a line, and a line of so many, count in the sum: of a decoded picture none can be left out


@dataclass(frozen=True)
class Pass:
    """What one pass over all samples took, and the sum over what it read."""

    seconds: float
    checksum: int


def add_up(tensor: Tensor) -> int:
    """Sum of a tensor's bytes, eight at a time, with what is more than 64 bits cut off: as quick as memory."""
    return int(tensor.contiguous().view(-1).view(torch.int64).sum()) % SUM_MODULUS


def data_module(folder: Path, num_workers: int) -> VideoQuestionData:
    """One pass over the shards as training makes it, a sample in a batch."""
    words = [
        f"data.sources.made.shards={folder}",
        f"video.image_size={SIZE_PIXELS}",
        f"data.num_workers={num_workers}",
    ]
    config = load_config(
        words=[*words, "data.global_batch_size=1", "training.learning_rate.vision=0"]
    )
    tokenizer = train_byte_level_tokenizer(["What is on the stove?"], 300)
    data = VideoQuestionData(config, Processor(tokenizer, config.text))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0)  # type: ignore[assignment]
    return data


def read_as_training(folder: Path, num_workers: int) -> Pass:
    """A pass through the data module and its loader, from the start of the workers to the last batch."""
    loader = data_module(folder, num_workers).train_dataloader()
    started, checksum = time.perf_counter(), 0
    for batch in loader:
        checksum += sum_of(batch)
        seconds = time.perf_counter() - started  # without the end of the workers
    return Pass(seconds, checksum % SUM_MODULUS)


def sum_of(batch: Batch) -> int:
    """The sum over what the videos of a batch show."""
    assert not batch.skipped, batch.skipped[0].reason
    (visual,) = batch.visuals
    if isinstance(visual, Frames):
        return int(visual.images[:, :, ::EACH, ::EACH].sum())
    assert isinstance(visual, Features)
    return add_up(visual.tokens)


def members(folder: Path, suffix: str) -> list[Place]:
    """Where the files of a kind lie in the tars."""
    places = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            places += [
                (path, each.offset_data, each.size) for each in tar if each.name.endswith(suffix)
            ]
    return places


def read_bare(
    read_share: Callable[[list[Place]], int], places: list[Place], num_processes: int
) -> Pass:
    """A pass by bare loops, in this process or in several that share the places evenly."""
    started = time.perf_counter()
    if not num_processes:
        checksum = read_share(places)
        return Pass(time.perf_counter() - started, checksum % SUM_MODULUS)
    shares = [places[number::num_processes] for number in range(num_processes)]
    with ProcessPoolExecutor(num_processes, FORK) as processes:
        checksum = sum(processes.map(read_share, shares))
        seconds = time.perf_counter() - started
    return Pass(seconds, checksum % SUM_MODULUS)


def decode_all(places: list[Place]) -> int:
    """Read each JPEG and decode it by PIL, as the project does, to an array of its own."""
    checksum = 0
    for path, offset, size in places:
        with path.open("rb", buffering=0) as tar:
            tar.seek(offset)
            with Image.open(io.BytesIO(tar.read(size)), formats=["JPEG"]) as image:
                checksum += int(np.array(image)[::EACH, ::EACH].sum())
    return checksum


def read_all(places: list[Place]) -> int:
    """Read the tokens of each video into memory of their own, which nothing checks."""
    checksum = 0
    for path, offset, size in places:
        with path.open("rb", buffering=0) as tar:
            tar.seek(offset)
            start = LENGTH_BYTES + int.from_bytes(tar.read(LENGTH_BYTES), "little")
            tar.seek(offset + start)
            tokens = torch.empty(size - start, dtype=torch.uint8)  # (bytes,)
            assert tar.readinto(memoryview(tokens.numpy())) == len(tokens)  # type: ignore[attr-defined]
            checksum += add_up(tokens)
    return checksum


LIMITS = {"frames": ("jpg", decode_all), "features": ("safetensors", read_all)}


def read_in_turns(
    folder: Path, kind: str, num_workers: int, num_passes: int
) -> dict[tuple[str, str], list[Pass]]:
    """Ours and the limit in turns: by (whose, "cold" or "warm") the passes. It wants a process of its own."""
    multiprocessing.set_start_method("fork", force=True)  # for the workers, as in any script
    torch.set_num_threads(1)
    suffix, read_share = LIMITS[kind]
    readers = {
        "ours": partial(read_as_training, folder, num_workers),
        "limit": partial(read_bare, read_share, members(folder, suffix), num_workers),
    }
    found: dict[tuple[str, str], list[Pass]] = {}
    for number in range(num_passes):
        for whose, read in readers.items():
            temperature = "warm" if number else "cold"
            if temperature == "cold":
                drop_from_memory(folder)
            found.setdefault((whose, temperature), []).append(read())
    return found


def memory_of_workers(folder: Path, num_workers: int) -> float:
    """Megabytes that the workers of a pass hold of their own at most, together, above what they start with."""
    multiprocessing.set_start_method("fork", force=True)
    first: dict[int, int] = {}
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            now = {
                each.pid: _own_kilobytes(each.pid)
                for each in multiprocessing.active_children()
                if each.pid
            }
            for pid, kilobytes in now.items():
                first.setdefault(pid, kilobytes)
            most = max(most, sum(kilobytes - first[pid] for pid, kilobytes in now.items()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    read_as_training(folder, num_workers)
    done.set()
    watcher.join()
    return most / 1e3


def _own_kilobytes(pid: int) -> int:
    """Memory of a process that no file stands for, shared memory included; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
