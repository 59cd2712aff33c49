"""Target 2: packed shards to batches, against the machine's limit, and raw reading against peers.

In each round every reader gets a new process. Its first pass starts with the files dropped from
the page cache (cold); the others find them there (warm). The best pass counts, because other work
on the machine only makes passes slower.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.benchmarks.speed.harness.peers import load_peer
from tests.benchmarks.speed.shards.batch_readers import (
    LIMITS,
    Pass,
    find_members,
    measure_worker_memory,
    read_alternately,
)
from tests.benchmarks.speed.shards.peer_libraries import PEERS
from tests.benchmarks.speed.shards.raw_readers import read_raw, write_for
from tests.benchmarks.speed.shards.write_shards import write_feature_shards, write_frame_shards

# Passes take seconds at these sizes, so that the start of workers counts little.
FRAMES_MEGABYTES, FEATURES_MEGABYTES = 180, 350
NUM_ROUNDS, NUM_PASSES = 2, 3  # the first pass of a round is cold
LIMIT_GOAL = Goal("at least", 0.8, "limit")
WHY = {
    "frames": "the bare loop decodes into the same cached array of interleaved colors again and"
    " again; a batch needs planes, in memory that outlives the frame, and with workers a rank that"
    " receives it on the same cores",
    "features": "features are memory-mapped and not copied; what is left is their CRC-32, which is"
    " checked at each read",
}

Result = TypeVar("Result")


def measure() -> Iterator[Outcome]:
    """Measure frames and features to batches, the memory of workers, and raw reading."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_frame_shards(folder / "frames", FRAMES_MEGABYTES)
        write_feature_shards(folder / "features", FEATURES_MEGABYTES)
        for kind in LIMITS:
            for num_workers in (0, 2):
                yield from compare_with_limit(folder / kind, kind, num_workers)
        yield measure_memory(folder / "features")
        shutil.rmtree(folder / "features")
        yield from compare_with_peers(folder)


def compare_with_limit(folder: Path, kind: str, num_workers: int) -> Iterator[Outcome]:
    """Measure the data module and the bare loop in alternation, in MB of shards per second."""
    megabytes = sum(size for _, _, size in find_members(folder, LIMITS[kind][0])) / 1e6
    found: dict[tuple[str, str], list[Pass]] = {}
    for _ in range(NUM_ROUNDS):
        one_round = partial(read_alternately, folder, kind, num_workers, NUM_PASSES)
        for reader, passes in in_new_process(one_round).items():
            found.setdefault(reader, []).extend(passes)
    checksums = {one_pass.checksum for passes in found.values() for one_pass in passes}
    assert len(checksums) == 1, "readers differ in what they read"
    speeds = {
        reader: megabytes / min(one_pass.seconds for one_pass in passes)
        for reader, passes in found.items()
    }
    processes = "2 workers" if num_workers else "no worker"
    bare = "bytes read and JPEGs decoded" if kind == "frames" else "bytes read into new memory"
    for temperature in ("warm", "cold"):
        ours, limit = speeds["ours", temperature], speeds["limit", temperature]
        print(f"{kind}, {processes}, {temperature}: {ours:.0f} of {limit:.0f} MB/s", flush=True)
        yield Outcome(
            2,
            f"{kind}, {processes}, {temperature}",
            "MB/s",
            ours,
            limit=limit,
            limit_name=bare,
            goal=LIMIT_GOAL,
            why=WHY[kind],
        )


def measure_memory(folder: Path) -> Outcome:
    """Measure the memory of two workers that read features."""
    ours = in_new_process(partial(measure_worker_memory, folder, 2))
    sample = find_members(folder, LIMITS["features"][0])[0][2] / 1e6
    return Outcome(
        2,
        "memory of 2 workers that read features",
        "MB",
        ours,
        limit=sample,
        limit_name="one sample",
        goal=Goal("at most", 0.2, "limit"),
        why="the workers hold copies of what they send",
    )


def compare_with_peers(folder: Path) -> Iterator[Outcome]:
    """Compare raw reading: separate JPEG buffers and parsed JSON, without decoding."""
    available = [peer for peer in PEERS if load_peer(peer.package, peer.module)]
    for peer in available:
        in_new_process(partial(write_for, folder, peer.package))
    for num_workers in (0, 2):
        speeds: dict[str, list[float]] = {}
        sums = set()
        for name in ["lit_hour", *(peer.package for peer in available)] * NUM_ROUNDS:
            megabytes, checksum, cold, warm = in_new_process(
                partial(read_raw, folder, name, num_workers)
            )
            sums.add(checksum)
            best = speeds.get(name, [0.0, 0.0])
            speeds[name] = [max(best[0], megabytes / cold), max(best[1], megabytes / warm)]
        assert len(sums) == 1, "readers differ in what they read"
        processes = "2 workers" if num_workers else "no worker"
        for name in (peer.package for peer in available):
            for index, temperature in ((1, "warm"), (0, "cold")):
                what = f"reading alone, in training order, {processes}, {temperature}"
                title = f"{name} {version(name)}"
                ours, theirs = speeds["lit_hour"][index], speeds[name][index]
                yield Outcome(2, what, "MB/s", ours, theirs, title)
    for peer in PEERS:
        if peer not in available:
            what = f"reading alone beside {peer.package}"
            yield Outcome(2, what, "MB/s", why=f"needs {peer.package}; make benchmark installs it")


def in_new_process(work: Callable[[], Result]) -> Result:
    """Return the result of a function called in a new process, which may have workers."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work).result()
