"""The folder of a sharded checkpoint: tensors in pieces, one file or more from each rank, and what else there is.

    shard-00001-model-00001-of-00002.safetensors    pieces; the header says where in its tensor each begins
    meta.pt                                         the rest of the checkpoint, of which no tensor is sharded

The safetensors files are those of torch.distributed.checkpoint, which reads them with any number of ranks. Nothing in them
can run code, unlike torch's own format.
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
SHARDING_INFO, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"  # in the header of each file
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
    """A part of a tensor: the file that it lies in, where in the tensor it begins, and its outline."""

    file: Path
    offsets: tuple[int, ...]
    meta_tensor: Tensor

    @property
    def end(self) -> tuple[int, ...]:
        """Where in the tensor it ends."""
        return tuple(
            offset + length
            for offset, length in zip(self.offsets, self.meta_tensor.shape, strict=True)
        )


def meta_tensor(opened: Any, name: str, file: Path) -> Tensor:
    """What a tensor of an open safetensors file looks like: it has a shape and a dtype and no data.

    Raises:
        WeightsError: it is quantised.
    """
    stored = opened.get_slice(name)
    if stored.get_dtype() not in DTYPES:
        raise WeightsError(
            f"{file}: {name} is stored as {stored.get_dtype()}: give weights that are not quantised"
        )
    return torch.empty(stored.get_shape(), dtype=DTYPES[stored.get_dtype()], device="meta")


def is_sharded(path: Path) -> bool:
    """Whether this is the folder of a sharded checkpoint."""
    return (path / META).is_file()


def open_sharded(folder: Path) -> tuple[dict[str, Tensor], Callable[[str], Tensor]]:
    """The outlines of the tensors of a sharded checkpoint by name, and how to read each of them as a whole.

    Raises:
        WeightsError: a file is damaged, or pieces are missing.
    """
    pieces: dict[str, list[TensorPiece]] = defaultdict(list)
    for file in sorted(folder.glob(SHARD_FILES)):
        for name, piece in _read_header(file).items():
            pieces[name].append(piece)
    outlines = {name: _full_meta_tensor(folder, name, parts) for name, parts in pieces.items()}

    def read(name: str) -> Tensor:
        whole = torch.empty_like(outlines[name], device="cpu")
        for piece in pieces[name]:
            place = tuple(slice(*bounds) for bounds in zip(piece.offsets, piece.end, strict=True))
            with safe_open(piece.file, "pt") as opened:
                whole[place] = opened.get_tensor(name)
        return whole

    return outlines, read


def _read_header(file: Path) -> dict[str, TensorPiece]:
    try:
        with safe_open(file, "pt") as opened:
            places = json.loads(opened.metadata()[SHARDING_INFO])
            return {
                name: TensorPiece(
                    file, tuple(places[name][OFFSETS]), meta_tensor(opened, name, file)
                )
                for name in sorted(opened.keys())
            }
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{file} is cut off, damaged or no part of a checkpoint ({error}): choose another"
        ) from error


def _full_meta_tensor(folder: Path, name: str, pieces: list[TensorPiece]) -> Tensor:
    """What a tensor looks like as a whole."""
    shape = tuple(map(max, zip(*(piece.end for piece in pieces), strict=True)))
    whole = pieces[0].meta_tensor.new_empty(shape)
    if sum(piece.meta_tensor.numel() for piece in pieces) != whole.numel():
        raise WeightsError(
            f"{folder} lacks a part of {name}: one of its files is missing, choose another checkpoint"
        )
    return whole
