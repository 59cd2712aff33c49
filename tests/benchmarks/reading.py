"""How fast samples are read: python tests/benchmarks/reading.py [MEGABYTES]

Made-up subjects of 60 frames with five questions, in shards. They are read in the order of training, one after the other, and
at random; and on the same samples by those of mosaicml-streaming, litdata and megatron-energon that are installed. A sample is
read when its JPEGs lie apart in memory and its JSON is parsed; decoding would be the same for all. In each of several rounds
everybody gets a new process: its first pass begins after the system has dropped the files from its memory (cold), the others
find them there (warm). The best of all passes counts: a machine that has other things to do makes passes slower and none
quicker.
"""

# ruff: noqa: E402  (the checkout comes first on the path)
from __future__ import annotations

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path[:0] = [str(Path(__file__).parents[2])]

import numpy as np
from peers import PEERS, Peer, Stored, only_one
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from webdataset import TarWriter

from lit_hour.data.index import VERSION, ShardIndex, SubjectRecord, write_index, write_json
from lit_hour.data.order import MixedOrder, SourceOrder
from lit_hour.data.shards import Shards, open_shards

NUM_FRAMES, SUBJECTS_PER_SHARD, SHUFFLE_SHARDS, NUM_ROUNDS, NUM_WARM = 60, 16, 4, 4, 5
ORDERS = ("training", "sequential", "random")
Reader = Callable[[int], Iterator[Stored]]  # number of workers -> samples


def write_shards(folder: Path, megabytes: int) -> None:
    """Shards of about so many megabytes in all, filled with the same few pictures of noise."""
    folder.mkdir()
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(50)]  # (48, 48, 3)
    pictures = []
    for each in noise:
        stream = io.BytesIO()
        Image.fromarray(each).resize((384, 384)).save(stream, "jpeg", quality=90)
        pictures.append(stream.getvalue())
    num_shards = round(megabytes * 1e6 / (SUBJECTS_PER_SHARD * NUM_FRAMES * np.mean(list(map(len, pictures)))))
    for shard in range(num_shards):
        _write_shard(folder, shard, pictures)
    write_json(folder / "index.json", {"num_shards": num_shards})


def _write_shard(folder: Path, shard: int, pictures: list[bytes]) -> None:
    subjects, path = [], folder / f"{shard:06d}.tar"
    with path.open("wb") as stream, TarWriter(stream, mtime=0, encoder=False, format="GNU_FORMAT") as tar:
        for number in range(shard * SUBJECTS_PER_SHARD, (shard + 1) * SUBJECTS_PER_SHARD):
            key, offset = f"video_{number:06d}", tar.tarstream.offset
            frames = {f"{frame:06d}.jpg": pictures[(number * 7 + frame) % len(pictures)] for frame in range(NUM_FRAMES)}
            tar.write({"__key__": key, **frames, "json": _record(key)})
            size = tar.tarstream.offset - offset
            subjects.append(SubjectRecord(path.name, key, "video", offset, size, float(NUM_FRAMES), NUM_FRAMES, 5))
    content = path.read_bytes()
    index = ShardIndex(path.name, len(content), hashlib.sha256(content).hexdigest(), {}, "", tuple(subjects), ())
    write_index(path.with_suffix(".json"), index)


def _record(key: str) -> bytes:
    question = {"task": "", "format": "open_ended", "question": "What is on the stove? " * 4, "options": [], "answer": "A pan."}
    record = {
        "version": VERSION,
        "key": key,
        "kind": "video",
        "files": [f"{key}.mp4"],
        "duration_seconds": float(NUM_FRAMES),
        "timestamps_seconds": [float(second) for second in range(NUM_FRAMES)],
        "questions": [{"id": f"{key}/{number}", **question, "evidence": []} for number in range(5)],
    }
    return json.dumps(record).encode()


class Subjects(Dataset[Stored]):
    """Our subjects as (shard, number in the shard)."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __getitem__(self, place: tuple[int, int]) -> Stored:
        shard, number = place
        stored = self.shards.read_subject(self.shards.indexes[shard].subjects[number])
        return stored.key, [jpeg for _, jpeg in stored.pictures], {"questions": stored.questions}


def read_ours(folder: Path, order: str, num_workers: int) -> Iterator[Stored]:
    """Read with this project: in the order of training, sequentially, or at random."""
    shards = open_shards(folder)
    sizes = shards.samples_per_shard(5)
    places = [(shard, number) for shard, size in enumerate(sizes) for number in range(size)]
    if order == "training":
        mixed = MixedOrder({"all": SourceOrder(sizes, SHUFFLE_SHARDS, 0, "all")}, {"all": 1.0}, 0)
        places = [mixed.at(position)[1:] for position in range(len(mixed))]
    elif order == "random":
        places = [places[place] for place in np.random.default_rng(0).permutation(len(places))]
    yield from DataLoader(Subjects(shards), batch_size=1, sampler=places, num_workers=num_workers, collate_fn=only_one)


def drop_from_memory(folder: Path) -> None:
    """Ask the system to forget the content of the files, so that the disk is read."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def read_once(reader: Reader, num_workers: int) -> tuple[float, int, str]:
    """Seconds until the last sample is there, bytes of pictures, and a sum over all that does not depend on the order."""
    started, num_bytes, seen = time.perf_counter(), 0, []
    for key, frames, _ in reader(num_workers):
        num_bytes += sum(map(len, frames))
        seen.append(f"{key} {len(frames)} {frames[-1][-100:].hex()}")
        seconds = time.perf_counter() - started  # without the end of the workers
    return seconds, num_bytes, hashlib.sha256("\n".join(sorted(seen)).encode()).hexdigest()


def write_for(peer: Peer, folder: Path) -> bool:
    """Write the samples in the format of another library, if it is there."""
    try:
        version(peer.package)
    except PackageNotFoundError:
        print(f"{peer.package} is not installed: left out")
        return False
    tars = folder / "shards"
    samples = ((key, frames, json.loads(_record(key))) for key, frames, _ in read_ours(tars, "sequential", 0))
    peer.write(samples, tars, folder / peer.package)
    return True


def read_cold_and_warm(folder: Path, name: str, num_workers: int) -> list[tuple[float, int, str]]:
    """What `read_once` says of one reader in a new process: of a cold pass, then of warm ones."""
    multiprocessing.set_start_method("fork", force=True)  # for the workers, as in any script
    for peer in PEERS:
        if peer.package == name:
            import_module(peer.module)  # takes seconds, and is not reading
            reader, files = partial(peer.read, folder / name), folder / name
    if name in ORDERS:
        reader, files = partial(read_ours, folder / "shards", name), folder / "shards"
    drop_from_memory(files)
    return [read_once(reader, num_workers) for _ in range(1 + NUM_WARM)]


def main(megabytes: int) -> None:
    """Write the samples in every format, read them by everyone, and print a line for each."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_shards(folder / "shards", megabytes)
        names = [*ORDERS, *(peer.package for peer in PEERS if write_for(peer, folder))]
        best: dict[tuple[str, int], list[float]] = {}
        sums = set()
        for num_workers, _, name in itertools.product((0, 2), range(NUM_ROUNDS), names):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # which may have workers of its own
                found = process.submit(read_cold_and_warm, folder, name, num_workers).result()
            sums |= {(num_bytes, checksum) for _, num_bytes, checksum in found}
            speeds = [num_bytes / 1e6 / seconds for seconds, num_bytes, _ in found]
            cold, warm = best.get((name, num_workers), [0.0, 0.0])
            best[name, num_workers] = [max(cold, speeds[0]), max(warm, *speeds[1:])]
        assert len(sums) == 1, "not everybody has read the same"
    passes = f"best of {NUM_ROUNDS} cold and {NUM_ROUNDS * NUM_WARM} warm passes"
    print(f"{sums.pop()[0] / 1e6:.0f} MB of pictures, {NUM_FRAMES} in a sample; MB/s, {passes}")
    print(f"{'':32s}  0 workers: cold   warm   2 workers: cold   warm")
    for name in names:
        title = f"lit_hour, {name} order" if name in ORDERS else f"{name} {version(name)}"
        (cold0, warm0), (cold2, warm2) = best[name, 0], best[name, 2]
        print(f"{title:32s}  {cold0:15.0f} {warm0:6.0f}  {cold2:16.0f} {warm2:6.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
