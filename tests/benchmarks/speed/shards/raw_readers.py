"""Read undecoded samples: with this project in training order, and with peers in their formats."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from lit_hour.config.data import DataConfig
from lit_hour.config.schema import Config
from lit_hour.data.sample_order import MixedOrder, SourceOrder
from lit_hour.data.shards.reader import Shards, open_shards
from lit_hour.data.training_samples import samples_per_shard
from tests.benchmarks.speed.harness.peers import load_peer
from tests.benchmarks.speed.shards.peer_libraries import PEERS, Peer, RawSample, only_sample
from tests.benchmarks.speed.shards.write_shards import (
    FRAMES_PER_VIDEO,
    NUM_QUESTIONS,
    drop_page_cache,
    metadata,
)

SHUFFLE_SHARDS, NUM_WARM = 4, 4


class RawSamples(Dataset[RawSample]):
    """Samples of our shards, by (shard, number in the shard)."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __getitem__(self, location: tuple[int, int]) -> RawSample:
        shard, number = location
        stored = self.shards.read(self.shards.indexes[shard].entries[number])
        return stored.key, [jpeg for _, jpeg in stored.images], {"questions": stored.questions}


def read_ours(folder: Path, num_workers: int) -> Iterator[RawSample]:
    """Read with this project in training order."""
    shards = open_shards(folder)
    sizes = samples_per_shard(shards, Config(data=DataConfig(questions_per_sample=NUM_QUESTIONS)))
    mixed = MixedOrder({"all": SourceOrder(sizes, SHUFFLE_SHARDS, 0, "all")}, {"all": 1.0}, 0)
    locations = [mixed[position][1:] for position in range(sum(sizes))]
    yield from DataLoader(
        RawSamples(shards),
        batch_size=1,
        sampler=locations,
        num_workers=num_workers,
        collate_fn=only_sample,
    )


def write_for(folder: Path, package: str) -> None:
    """Write the samples of FOLDER/frames in the format of a peer, to FOLDER/PACKAGE."""
    tars = folder / "frames"
    samples = (
        (key, frames, json.loads(metadata(key, FRAMES_PER_VIDEO)))
        for key, frames, _ in sorted(read_ours(tars, 0), key=lambda sample: sample[0])
    )
    find_peer(package).write(samples, tars, folder / package)


def find_peer(package: str) -> Peer:
    """Return the peer of a package name."""
    return next(peer for peer in PEERS if peer.package == package)


def read_raw(folder: Path, name: str, num_workers: int) -> tuple[float, str, float, float]:
    """Time raw reading; to be called in a new process.

    Returns:
        Megabytes of JPEGs, a checksum that does not depend on the order, the seconds of a cold
        pass, and those of the best warm pass.
    """
    multiprocessing.set_start_method("fork", force=True)  # start method of the workers
    files = folder / ("frames" if name == "lit_hour" else name)
    if name != "lit_hour":
        load_peer(name, find_peer(name).module)  # takes seconds, and is not part of reading
    drop_page_cache(files)
    passes = []
    for _ in range(1 + NUM_WARM):
        started, num_bytes, found = time.perf_counter(), 0, []
        samples = (
            read_ours(files, num_workers)
            if name == "lit_hour"
            else find_peer(name).read(files, num_workers)
        )
        for key, frames, _ in samples:
            num_bytes += sum(map(len, frames))
            found.append(f"{key} {len(frames)} {frames[-1][-100:].hex()}")
            seconds = time.perf_counter() - started  # excludes the shutdown of the workers
        checksum = hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()
        passes.append((num_bytes / 1e6, checksum, seconds))
    (megabytes, checksum, cold), *warm = passes
    assert {one_pass[:2] for one_pass in warm} == {(megabytes, checksum)}, "passes differ"
    return megabytes, checksum, cold, min(seconds for _, _, seconds in warm)
