"""Target 2: packed shards to batches, against the limit that the machine sets, and raw reading against other projects.

In each of several rounds everybody gets a new process: its first pass begins after the system has dropped the files from its
memory (cold), the others find them there (warm). The best pass counts: a machine that has other things to do makes passes
slower and none quicker.
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
    members,
    memory_of_workers,
    read_in_turns,
)
from tests.benchmarks.speed.shards.peer_libraries import PEERS
from tests.benchmarks.speed.shards.raw_readers import read_raw, write_for
from tests.benchmarks.speed.shards.write_shards import write_feature_shards, write_frame_shards

FRAMES_MEGABYTES, FEATURES_MEGABYTES = (
    180,
    350,
)  # passes of seconds, in which the start of workers counts little
NUM_ROUNDS, NUM_PASSES = 2, 3  # of the passes the first is cold
MOST_OF_THE_LIMIT = Goal("at least", 0.8, "limit")
WHY = {
    "frames": "the frames of a sample go to new memory, with workers to memory that is shared, whose pages the system makes one"
    " by one; the bare loop decodes each into the same place. Memory that is used again, or huge pages, would be next",
    "features": "features are mapped and not copied; what is left is their CRC-32, which is checked at each reading",
}

Result = TypeVar("Result")


def measure() -> Iterator[Outcome]:
    """Frames and features to batches, the memory of workers, and reading alone beside the peers."""
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
    """Ours and the bare loop in turns, in MB of shards a second."""
    megabytes = sum(size for _, _, size in members(folder, LIMITS[kind][0])) / 1e6
    found: dict[tuple[str, str], list[Pass]] = {}
    for _ in range(NUM_ROUNDS):
        for whose, passes in in_new_process(
            partial(read_in_turns, folder, kind, num_workers, NUM_PASSES)
        ).items():
            found.setdefault(whose, []).extend(passes)
    assert len({each.checksum for passes in found.values() for each in passes}) == 1, (
        "not everybody has read the same"
    )
    speeds = {
        whose: megabytes / min(each.seconds for each in passes) for whose, passes in found.items()
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
            goal=MOST_OF_THE_LIMIT,
            why=WHY[kind],
        )


def measure_memory(folder: Path) -> Outcome:
    """What two workers hold while features pass through them."""
    ours = in_new_process(partial(memory_of_workers, folder, 2))
    sample = members(folder, LIMITS["features"][0])[0][2] / 1e6
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
    """Reading alone: JPEGs that lie apart in memory, and parsed JSON. Decoding would be the same for all."""
    there = [peer for peer in PEERS if load_peer(peer.package, peer.module)]
    for peer in there:
        in_new_process(partial(write_for, folder, peer.package))
    for num_workers in (0, 2):
        speeds: dict[str, list[float]] = {}
        sums = set()
        for name in [*["lit_hour", *(peer.package for peer in there)] * NUM_ROUNDS]:
            megabytes, checksum, cold, warm = in_new_process(
                partial(read_raw, folder, name, num_workers)
            )
            sums.add(checksum)
            best = speeds.get(name, [0.0, 0.0])
            speeds[name] = [max(best[0], megabytes / cold), max(best[1], megabytes / warm)]
        assert len(sums) == 1, "not everybody has read the same"
        processes = "2 workers" if num_workers else "no worker"
        for name in (peer.package for peer in there):
            for place, temperature in ((1, "warm"), (0, "cold")):
                what = f"reading alone, in training order, {processes}, {temperature}"
                title = f"{name} {version(name)}"
                yield Outcome(
                    2, what, "MB/s", speeds["lit_hour"][place], speeds[name][place], title
                )
    for peer in PEERS:
        if peer not in there:
            yield Outcome(
                2,
                f"reading alone beside {peer.package}",
                "MB/s",
                why=f"{peer.package}, which make benchmark installs",
            )


def in_new_process(work: Callable[[], Result]) -> Result:
    """The result of work in a process that has done nothing else, and may have workers of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work).result()
