"""Files or weights in, a number out by which their content is known again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    if path.is_dir():
        parts = [
            f"{hash_path(file)}  {file.relative_to(path)}\n"
            for file in sorted(path.rglob("*"))
            if file.is_file()
        ]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_weights(weights: Mapping[str, Tensor], start: bytes = b"") -> str:
    """SHA-256 of weights, under their names, behind some bytes.

    It is that of the weights in bf16, so that it stays the same whichever precision a run holds them in. The ranks of a
    sharded model all have to ask for it.
    """
    found = hashlib.sha256(start)
    for name, weight in sorted(weights.items()):
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        found.update(f"{name} {tuple(whole.shape)}".encode())
        found.update(
            whole.detach()
            .to("cpu", torch.bfloat16)
            .contiguous()
            .view(torch.int16)
            .numpy()
            .tobytes()
        )
    return found.hexdigest()
