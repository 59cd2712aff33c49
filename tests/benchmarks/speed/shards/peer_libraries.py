"""The same samples in the formats of other libraries, and read back by them: shuffled, undecoded, for `raw_reading.py`."""

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

Stored = tuple[str, list[bytes], dict[str, Any]]  # key, a JPEG for each frame, KEY.json
CHUNK_BYTES = 64 * 2**20


def join_frames(sample: Stored) -> tuple[str, bytes, dict[str, Any]]:
    """One text, one run of bytes and one record, for formats whose samples all have the same fields."""
    key, frames, record = sample
    return key, b"".join(frames), {**record, "ends": list(itertools.accumulate(map(len, frames)))}


def split_frames(key: str, frames: bytes, record: dict[str, Any]) -> Stored:
    """What `join_frames` joined."""
    ends = record.pop("ends")
    return (
        key,
        [bytes(frames[start:end]) for start, end in zip([0, *ends], ends, strict=False)],
        record,
    )


def split_only_one(batch: list[dict[str, Any]]) -> Stored:
    """The sample of a batch of one, split where it was read, in the worker."""
    sample, record = batch[0], batch[0]["record"]
    return split_frames(
        sample["key"], sample["frames"], json.loads(record) if isinstance(record, str) else record
    )


def only_one(batch: list[Any]) -> Any:
    """The sample of a batch of one."""
    return batch[0]


def write_streaming(samples: Iterable[Stored], tars: Path, out: Path) -> None:
    """Write with mosaicml-streaming."""
    from streaming import MDSWriter

    columns = {"key": "str", "frames": "bytes", "record": "json"}
    with MDSWriter(columns=columns, out=str(out), size_limit=CHUNK_BYTES) as writer:
        for sample in samples:
            writer.write(dict(zip(columns, join_frames(sample), strict=True)))


def read_streaming(out: Path, num_workers: int) -> Iterator[Stored]:
    """Read with mosaicml-streaming."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(out), shuffle=True, batch_size=1)
    yield from DataLoader(dataset, batch_size=1, num_workers=num_workers, collate_fn=split_only_one)


def litdata_sample(samples: list[Stored], number: int) -> dict[str, Any]:
    """One sample as litdata stores it."""
    key, frames, record = join_frames(samples[number])
    return {"key": key, "frames": frames, "record": json.dumps(record)}


def write_litdata(samples: Iterable[Stored], tars: Path, out: Path) -> None:
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


def read_litdata(out: Path, num_workers: int) -> Iterator[Stored]:
    """Read with litdata."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(out), shuffle=True)
    yield from StreamingDataLoader(
        dataset, batch_size=1, num_workers=num_workers, collate_fn=split_only_one
    )


def write_energon(samples: Iterable[Stored], tars: Path, out: Path) -> None:
    """Prepare our own tars for megatron-energon, which reads WebDataset."""
    out.mkdir()
    for tar in sorted(tars.glob("*.tar")):
        os.link(tar, out / tar.name)
    words = [
        "prepare",
        "--non-interactive",
        "--split-ratio",
        "1,0,0",
        "--sample-type",
        "CrudeWebdataset",
        "--num-workers",
        "1",
    ]
    command = [
        sys.executable,
        "-c",
        "from megatron.energon.cli.main import main; main()",
        *words,
        str(out),
    ]
    reach = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # where the peers come last
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=reach)


def read_energon(out: Path, num_workers: int) -> Iterator[Stored]:
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
    """A library to compare with: its names, how it writes the samples (or takes the tars), and how it reads them."""

    package: str
    module: str
    write: Callable[[Iterable[Stored], Path, Path], None]
    read: Callable[[Path, int], Iterator[Stored]]


PEERS = (
    Peer("mosaicml-streaming", "streaming", write_streaming, read_streaming),
    Peer("litdata", "litdata", write_litdata, read_litdata),
    Peer("megatron-energon", "megatron.energon", write_energon, read_energon),
)
