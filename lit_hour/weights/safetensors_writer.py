"""Write weights as model.safetensors, or as shards with model.safetensors.index.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.errors import WeightsError
from lit_hour.io.atomic import atomic_dir
from lit_hour.weights.reader import INDEX_FILE, SAFE, SINGLE_FILE

SHARD_BYTES = 2 * 2**30


def write_weights(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors into a folder, with at most one shard and one tensor in memory.

    Args:
        folder: exists and has no weights.
        tensors: (name, tensor) of any shape and dtype.
        shard_bytes: size of a shard in bytes; a larger tensor is a shard of its own.
    """
    files = []
    for number, shard in enumerate(_shards(tensors, shard_bytes)):
        files.append(
            (
                folder / f"{number}{SAFE}",
                list(shard),
                sum(tensor.nbytes for tensor in shard.values()),
            )
        )
        save_file(shard, files[-1][0], metadata={"format": "pt"})
        shard.clear()
    if len(files) == 1:
        files[0][0].rename(folder / SINGLE_FILE)
        return
    file_of: dict[str, str] = {}
    for number, (file, names, _) in enumerate(files, start=1):
        shard_name = f"model-{number:05d}-of-{len(files):05d}{SAFE}"
        file.rename(folder / shard_name)
        file_of |= dict.fromkeys(names, shard_name)
    index = {
        "metadata": {"total_size": sum(size for _, _, size in files)},
        "weight_map": dict(sorted(file_of.items())),
    }
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def complete_or_absent(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Write a folder atomically: it appears when it is complete, and not at all on an error.

    Leftovers of a killed process are removed.

    Raises:
        WeightsError: The folder is not empty, at the start or at the end, or the disk has too
            little space for `num_bytes`.
    """
    check_empty(folder)
    free = shutil.disk_usage(
        next(parent for parent in folder.absolute().parents if parent.is_dir())
    ).free
    if num_bytes > free:
        raise _no_room(folder, f"it needs {num_bytes / 1e9:.2f} GB", free)
    try:
        with atomic_dir(folder) as temp:
            yield temp
            check_empty(folder)  # a run may have started there meanwhile, and would be replaced
    except (OSError, SafetensorError) as error:
        raise _no_room(folder, str(error), free) from error


def check_empty(folder: Path) -> None:
    """Check that a folder to write is new or empty.

    Raises:
        WeightsError: It is neither.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(
            f"{folder} exists and is not empty. Nothing is overwritten; give another name."
        )


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    num_bytes = 0
    for name, tensor in tensors:
        if shard and num_bytes + tensor.nbytes > shard_bytes:
            yield shard
            shard, num_bytes = {}, 0
        shard[name] = tensor.contiguous()
        num_bytes += tensor.nbytes
    yield shard


def _no_room(folder: Path, reason: str, free: int) -> WeightsError:
    return WeightsError(
        f"{folder} could not be written: {reason}. {free / 1e9:.2f} GB were free."
        " Free space, or choose another disk."
    )
