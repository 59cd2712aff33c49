"""Stored samples as they are, undecoded: read by this project in the order of training, and by the peers from their formats."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from lit_hour.data.order.sample_order import MixedOrder, SourceOrder
from lit_hour.data.shards.reader import Shards, open_shards
from tests.benchmarks.speed.harness.peers import load_peer
from tests.benchmarks.speed.shards.peer_libraries import PEERS, Peer, Stored, only_one
from tests.benchmarks.speed.shards.write_shards import (
    FRAMES_OF_PICTURES,
    NUM_QUESTIONS,
    drop_from_memory,
    metadata,
)

SHUFFLE_SHARDS, NUM_WARM = 4, 4


class Subjects(Dataset[Stored]):
    """Our subjects as (shard, number in the shard)."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __getitem__(self, place: tuple[int, int]) -> Stored:
        shard, number = place
        stored = self.shards.read_subject(self.shards.indexes[shard].subjects[number])
        return stored.key, [jpeg for _, jpeg in stored.pictures], {"questions": stored.questions}


def read_ours(folder: Path, num_workers: int) -> Iterator[Stored]:
    """Read with this project, in the order of training."""
    shards = open_shards(folder)
    sizes = shards.samples_per_shard(NUM_QUESTIONS)
    mixed = MixedOrder({"all": SourceOrder(sizes, SHUFFLE_SHARDS, 0, "all")}, {"all": 1.0}, 0)
    places = [mixed.at(position)[1:] for position in range(len(mixed))]
    yield from DataLoader(
        Subjects(shards), batch_size=1, sampler=places, num_workers=num_workers, collate_fn=only_one
    )


def write_for(folder: Path, package: str) -> None:
    """Write the samples of FOLDER/frames in the format of a peer, to a folder of its name."""
    tars = folder / "frames"
    samples = (
        (key, frames, json.loads(metadata(key, FRAMES_OF_PICTURES)))
        for key, frames, _ in sorted(read_ours(tars, 0), key=first)
    )
    peer_of(package).write(samples, tars, folder / package)


def first(sample: Stored) -> str:
    """The key."""
    return sample[0]


def peer_of(package: str) -> Peer:
    """The peer of a name."""
    return next(peer for peer in PEERS if peer.package == package)


def read_raw(folder: Path, name: str, num_workers: int) -> tuple[float, str, float, float]:
    """Megabytes of pictures, a sum over all that does not depend on the order, and seconds: a cold and the best warm pass."""
    multiprocessing.set_start_method("fork", force=True)  # for the workers, as in any script
    files = folder / ("frames" if name == "lit_hour" else name)
    if name != "lit_hour":
        load_peer(name, peer_of(name).module)  # takes seconds, and is not reading
    drop_from_memory(files)
    passes = []
    for _ in range(1 + NUM_WARM):
        started, num_bytes, seen = time.perf_counter(), 0, []
        samples = (
            read_ours(files, num_workers)
            if name == "lit_hour"
            else peer_of(name).read(files, num_workers)
        )
        for key, frames, _ in samples:
            num_bytes += sum(map(len, frames))
            seen.append(f"{key} {len(frames)} {frames[-1][-100:].hex()}")
            seconds = time.perf_counter() - started  # without the end of the workers
        passes.append(
            (num_bytes / 1e6, hashlib.sha256("\n".join(sorted(seen)).encode()).hexdigest(), seconds)
        )
    (megabytes, checksum, cold), *warm = passes
    assert {each[:2] for each in warm} == {(megabytes, checksum)}, "a pass has read something else"
    return megabytes, checksum, cold, min(seconds for _, _, seconds in warm)
