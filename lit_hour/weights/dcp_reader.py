"""Reader of sharded checkpoints in the safetensors layout of torch.distributed.checkpoint.

Start at `open_sharded`. Any number of ranks can read the files, and they cannot run code:

    shard-00001-model-00001-of-00002.safetensors    shards of tensors, offsets in the header
    meta.pt                                         the rest of the checkpoint, unsharded
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_hour.errors import WeightsError

META = "meta.pt"
SHARD_FILES = "shard-*.safetensors"
SHARDING_INFO, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"  # keys in the header of each file
DTYPES = {  # as a safetensors header names them
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorPiece:
    """One stored shard of a tensor: its file, offsets in the full tensor, shape and dtype."""

    file: Path
    offsets: tuple[int, ...]
    meta_tensor: Tensor

    @property
    def end(self) -> tuple[int, ...]:
        """Return the end offsets in the full tensor."""
        return tuple(
            offset + length
            for offset, length in zip(self.offsets, self.meta_tensor.shape, strict=True)
        )


def meta_tensor(opened: Any, name: str, file: Path) -> Tensor:
    """Return a meta tensor with the shape and dtype of a tensor in an open safetensors file.

    Args:
        opened: the file, opened by `safetensors.safe_open`.
        name: of the tensor.
        file: its path, for errors.

    Raises:
        WeightsError: The tensor is quantized.
    """
    stored = opened.get_slice(name)
    if stored.get_dtype() not in DTYPES:
        raise WeightsError(
            f"{file}: {name} is stored as {stored.get_dtype()}. Give weights that are not "
            "quantized."
        )
    return torch.empty(stored.get_shape(), dtype=DTYPES[stored.get_dtype()], device="meta")


def is_sharded(path: Path) -> bool:
    """Return True for the folder of a sharded checkpoint."""
    return (path / META).is_file()


def open_sharded(folder: Path) -> tuple[dict[str, Tensor], Callable[[str], Tensor]]:
    """Open a sharded checkpoint.

    Returns:
        The meta tensor of each name, with the full shape; and a function that reads the full
        tensor of a name, of that shape and dtype, on the CPU.

    Raises:
        WeightsError: A file is corrupt, shards are missing, or the folder was replaced while it
            was read.
    """
    pieces: dict[str, list[TensorPiece]] = defaultdict(list)
    for file in sorted(folder.glob(SHARD_FILES)):
        for name, piece in _read_header(file).items():
            pieces[name].append(piece)
    meta_tensors = {name: _full_meta_tensor(folder, name, parts) for name, parts in pieces.items()}
    inode = folder.stat().st_ino

    def read(name: str) -> Tensor:
        full = torch.empty_like(meta_tensors[name], device="cpu")  # full shape
        for piece in pieces[name]:
            region = tuple(slice(*bounds) for bounds in zip(piece.offsets, piece.end, strict=True))
            with safe_open(piece.file, "pt") as opened:
                full[region] = opened.get_tensor(name)
        if folder.stat().st_ino != inode:  # the files of the next checkpoint have the same names
            raise WeightsError(
                f"{folder} was replaced by a newer checkpoint while it was read. Try again."
            )
        return full

    return meta_tensors, read


def _read_header(file: Path) -> dict[str, TensorPiece]:
    try:
        with safe_open(file, "pt") as opened:
            info = json.loads(opened.metadata()[SHARDING_INFO])
            return {
                name: TensorPiece(file, tuple(info[name][OFFSETS]), meta_tensor(opened, name, file))
                for name in sorted(opened.keys())
            }
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{file} is truncated, corrupt or not part of a checkpoint ({error}). Choose another."
        ) from error


def _full_meta_tensor(folder: Path, name: str, pieces: list[TensorPiece]) -> Tensor:
    """Return the meta tensor of a full tensor; its shards have to cover it."""
    shape = tuple(map(max, zip(*(piece.end for piece in pieces), strict=True)))
    full = pieces[0].meta_tensor.new_empty(shape)
    if sum(piece.meta_tensor.numel() for piece in pieces) != full.numel():
        raise WeightsError(
            f"{folder} lacks a shard of {name}: a file is missing. Choose another checkpoint."
        )
    return full
