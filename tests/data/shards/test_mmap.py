"""Memory-mapped slices of a file, in this process and sent to another one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lit_hour.data.shards.mmap import MmapFeatures, MmapSlice
from lit_hour.types import Features

CONTENT = random.Random(0).randbytes(3 * 4096 + 77)
SHAPE = (5, 4, 16)  # frames, tokens, vision_dim


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.write_bytes(CONTENT)
    return path


def make_slice(file: Path, start: int, num_bytes: int) -> MmapSlice:
    return MmapSlice(os.open(file, os.O_RDONLY), start, num_bytes)


@pytest.mark.parametrize(
    ("start", "num_bytes"),
    [(0, len(CONTENT)), (1, 10), (4095, 4100), (8192, 4096), (12300, 65), (7, 0)],
)
def test_slice_has_its_bytes_at_any_offset(file: Path, start: int, num_bytes: int) -> None:
    assert bytes(make_slice(file, start, num_bytes)) == CONTENT[start : start + num_bytes]


def test_writes_to_a_slice_do_not_change_the_file(file: Path) -> None:
    one, other = make_slice(file, 512, 1000), make_slice(file, 512, 1000)
    one.content[:4] = b"ours"
    assert (
        bytes(one)[:4] == b"ours"
        and bytes(other) == file.read_bytes()[512:1512] == CONTENT[512:1512]
    )


class Videos(Dataset[Features]):
    """Features in a file that is deleted while they are sent."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Features:
        part = make_slice(self.file, 2 * index, 8 + 2 * torch.Size(SHAPE).numel())
        if index == 2:
            self.file.unlink()
        tokens = torch.frombuffer(part.content, dtype=torch.bfloat16, offset=8).view(
            SHAPE
        )  # (frames, tokens, vision_dim)
        return MmapFeatures(tokens, torch.arange(5.0) + index, part)


def only_one(features: list[Features]) -> Features:
    return features[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_features_from_a_worker_are_equal_and_mapped(file: Path, num_workers: int) -> None:
    for index, found in enumerate(
        list(DataLoader(Videos(file), batch_size=1, num_workers=num_workers, collate_fn=only_one))
    ):
        first = 2 * index + 8
        expected = torch.frombuffer(
            bytearray(CONTENT[first : first + 640]), dtype=torch.bfloat16
        ).view(SHAPE)
        assert torch.equal(found.tokens.view(torch.int16), expected.view(torch.int16))
        assert torch.equal(found.timestamps, torch.arange(5.0) + index)
        assert isinstance(found, MmapFeatures)
