"""Read GGUF files: metadata, names and shapes at once, tensors dequantized on access.

Entry point: `read_gguf`. The library `gguf` parses the file; nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_hour.errors import WeightsError

GGUF = ".gguf"


@dataclass(frozen=True)
class GgufFile:
    """A parsed GGUF file.

    Attributes:
        path: the file.
        metadata: key to number, string, bool or list.
        shapes: name of each tensor to its shape, as torch has it: the last dimension is contiguous.
        read: return a tensor of this name, dequantized to float32.
    """

    path: Path
    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], NDArray[np.float32]]


def read_gguf(path: Path) -> GgufFile:
    """Parse a GGUF file; the last ones are kept, because vocabularies take seconds to parse.

    Raises:
        WeightsError: the file is missing or damaged, or the library `gguf` is not installed.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    return _parse(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _parse(path: Path, _mtime_ns: int, _num_bytes: int) -> GgufFile:
    try:
        from gguf import GGUFReader, dequantize
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"Reading {path.name} needs the library gguf, which is not installed. Run pip install"
            " 'lit_hour[small]', or only pip install gguf."
        ) from error
    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise WeightsError(
            f"{path} is truncated, damaged or not a GGUF file ({error}). Download it again."
        ) from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> NDArray[np.float32]:
        tensor = tensors[name]
        return dequantize(tensor.data, tensor.tensor_type)

    shapes = {
        name: tuple(int(size) for size in reversed(tensor.shape))
        for name, tensor in tensors.items()
    }
    return GgufFile(path, metadata, shapes, read)
