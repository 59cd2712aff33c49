"""Write samples in the formats of other libraries, and read them back shuffled and undecoded."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

RawSample = tuple[str, list[bytes], dict[str, Any]]  # key, a JPEG for each frame, KEY.json
CHUNK_BYTES = 64 * 2**20


def join_frames(sample: RawSample) -> tuple[str, bytes, dict[str, Any]]:
    """Return key, concatenated frames and record, for formats with a fixed set of fields."""
    key, frames, record = sample
    return key, b"".join(frames), {**record, "ends": list(itertools.accumulate(map(len, frames)))}


def split_frames(key: str, frames: bytes, record: dict[str, Any]) -> RawSample:
    """Undo `join_frames`."""
    ends = record.pop("ends")
    parts = [bytes(frames[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return key, parts, record


def split_only_sample(batch: list[dict[str, Any]]) -> RawSample:
    """Return the sample of a batch of one, split in the worker."""
    sample, record = batch[0], batch[0]["record"]
    if isinstance(record, str):
        record = json.loads(record)
    return split_frames(sample["key"], sample["frames"], record)


def only_sample(batch: list[Any]) -> Any:
    """Return the sample of a batch of one."""
    return batch[0]


def write_streaming(samples: Iterable[RawSample], tars: Path, out: Path) -> None:
    """Write with mosaicml-streaming."""
    from streaming import MDSWriter

    columns = {"key": "str", "frames": "bytes", "record": "json"}
    with MDSWriter(columns=columns, out=str(out), size_limit=CHUNK_BYTES) as writer:
        for sample in samples:
            writer.write(dict(zip(columns, join_frames(sample), strict=True)))


def read_streaming(out: Path, num_workers: int) -> Iterator[RawSample]:
    """Read with mosaicml-streaming."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(out), shuffle=True, batch_size=1)
    yield from DataLoader(
        dataset, batch_size=1, num_workers=num_workers, collate_fn=split_only_sample
    )


def litdata_sample(samples: list[RawSample], number: int) -> dict[str, Any]:
    """Return one sample as litdata stores it."""
    key, frames, record = join_frames(samples[number])
    return {"key": key, "frames": frames, "record": json.dumps(record)}


def write_litdata(samples: Iterable[RawSample], tars: Path, out: Path) -> None:
    """Write with litdata."""
    from litdata import optimize

    everything = list(samples)
    optimize(
        partial(litdata_sample, everything),
        list(range(len(everything))),
        str(out),
        chunk_bytes=CHUNK_BYTES,
        num_workers=1,
        start_method="fork",
        verbose=False,
    )


def read_litdata(out: Path, num_workers: int) -> Iterator[RawSample]:
    """Read with litdata."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(out), shuffle=True)
    yield from StreamingDataLoader(
        dataset, batch_size=1, num_workers=num_workers, collate_fn=split_only_sample
    )


def write_energon(samples: Iterable[RawSample], tars: Path, out: Path) -> None:
    """Prepare our own tars for megatron-energon, which reads WebDataset."""
    out.mkdir()
    for tar in sorted(tars.glob("*.tar")):
        os.link(tar, out / tar.name)
    options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
    code = "from megatron.energon.cli.main import main; main()"
    command = [sys.executable, "-c", code, "prepare", *options, "--num-workers", "1", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the peers come last
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def read_energon(out: Path, num_workers: int) -> Iterator[RawSample]:
    """Read with megatron-energon."""
    from megatron.energon import (
        CrudeSample,
        DefaultTaskEncoder,
        WorkerConfig,
        get_loader,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.task_encoder import Cooker

    @stateless
    def keep(sample: CrudeSample) -> CrudeSample:
        return sample

    class Encoder(DefaultTaskEncoder):
        cookers = (Cooker(keep),)
        decoder = None

    dataset = get_train_dataset(
        out,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=num_workers),
        batch_size=None,
        shuffle_buffer_size=64,
        max_samples_per_sequence=16,
        task_encoder=Encoder(),
        repeat=False,
    )
    for sample in get_loader(dataset):
        names = sorted(name for name in sample if name.endswith("jpg"))
        yield (
            sample["__key__"].rpartition("/")[2],
            [sample[name] for name in names],
            json.loads(sample["json"]),
        )


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Attributes:
        package: name of the distribution.
        module: the module to import.
        write: write samples, or link the tars at the first path, to the second path.
        read: read a folder with a number of workers.
    """

    package: str
    module: str
    write: Callable[[Iterable[RawSample], Path, Path], None]
    read: Callable[[Path, int], Iterator[RawSample]]


PEERS = (
    Peer("mosaicml-streaming", "streaming", write_streaming, read_streaming),
    Peer("litdata", "litdata", write_litdata, read_litdata),
    Peer("megatron-energon", "megatron.energon", write_energon, read_energon),
)
