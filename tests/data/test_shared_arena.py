"""Blocks of an arena: reused when their tensors are gone, and never before."""

from __future__ import annotations

import multiprocessing
import os
import random

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_hour.data.shared_arena import (
    MAX_BLOCKS,
    SharedArena,
    activate,
    create_arenas,
    empty_shared,
)

PAGE = os.sysconf("SC_PAGE_SIZE")
FORK = multiprocessing.get_context("fork")


def allocate_bytes(arena: SharedArena, num_bytes: int, value: int = 0) -> Tensor:
    tensor = arena.allocate((num_bytes,), torch.uint8)  # (bytes,)
    assert tensor is not None
    return tensor.fill_(value)


def bytes_taken(arena: SharedArena) -> int:
    """Return the memory that an arena has taken from the system."""
    return 512 * os.fstat(arena._file.fileno()).st_blocks


def test_block_is_reused_when_the_last_user_of_its_storage_is_gone() -> None:
    arena = SharedArena(10 * PAGE)
    first = allocate_bytes(arena, 2 * PAGE, 1)
    address, view, numbers = first.data_ptr(), first[PAGE:].view(2, -1)[1:], first.numpy()[5:]
    del first
    assert allocate_bytes(arena, PAGE, 2).data_ptr() != address  # two views are left
    del view
    assert allocate_bytes(arena, PAGE, 2).data_ptr() != address
    assert (numbers == 1).all()
    del numbers
    assert allocate_bytes(arena, PAGE).data_ptr() == address


def test_allocation_ends_where_the_arena_ends() -> None:
    arena = SharedArena(3 * PAGE)
    kept = [allocate_bytes(arena, PAGE + 1), allocate_bytes(arena, 1)]
    assert arena.allocate((1,), torch.uint8) is None
    assert arena.allocate((0, 3), torch.uint8) is None
    del kept[1]
    assert arena.allocate((PAGE + 1,), torch.uint8) is None
    assert arena.allocate((2, PAGE // 4), torch.bfloat16) is not None


def test_number_of_blocks_is_bounded() -> None:
    arena = SharedArena(2 * MAX_BLOCKS * PAGE)
    kept = [allocate_bytes(arena, 1) for _ in range(MAX_BLOCKS)]
    assert arena.allocate((1,), torch.uint8) is None
    del kept[17]
    assert arena.allocate((1,), torch.uint8) is not None


@pytest.mark.parametrize("seed", range(3))
def test_random_blocks_never_overlap(seed: int) -> None:
    choose, arena = random.Random(seed), SharedArena(40 * PAGE)
    kept: list[tuple[int, Tensor]] = []
    num_refused = 0
    for value in range(400):
        tensor = arena.allocate((choose.randrange(1, 6 * PAGE),), torch.uint8)
        if tensor is None:
            num_refused += 1
        else:
            kept.append((value % 256, tensor.fill_(value % 256)))
        if tensor is None or choose.random() < 0.4:
            del kept[choose.randrange(len(kept))]
        assert all(bool((content == expected).all()) for expected, content in kept)
    assert num_refused > 10


def test_memory_is_taken_when_written_and_returned_by_trim() -> None:
    arena = SharedArena(4096 * PAGE)
    before = bytes_taken(arena)
    kept, freed = allocate_bytes(arena, 64 * PAGE, 1), allocate_bytes(arena, 64 * PAGE, 2)
    assert before <= 4 * PAGE and bytes_taken(arena) >= 128 * PAGE
    del freed
    assert bytes_taken(arena) >= 128 * PAGE
    arena.trim()
    assert 64 * PAGE <= bytes_taken(arena) <= 68 * PAGE
    assert (kept == 1).all()
    assert (allocate_bytes(arena, 64 * PAGE, 3) == 3).all() and (kept == 1).all()


def test_forked_process_frees_no_block_of_its_parent() -> None:
    arena = SharedArena(10 * PAGE)
    held = [allocate_bytes(arena, PAGE, 1)]
    child = FORK.Process(target=held.clear)
    child.start()
    child.join(20)
    assert child.exitcode == 0
    others = [allocate_bytes(arena, PAGE, 2) for _ in range(9)]
    assert (held[0] == 1).all() and len(others) == 9
    assert arena.allocate((1,), torch.uint8) is None


def test_only_the_exact_content_of_an_unsent_block_is_sent() -> None:
    arena = SharedArena(10 * PAGE)
    tensor = allocate_bytes(arena, PAGE, 7)
    assert arena.send(tensor[:10]) is None
    assert arena.send(torch.zeros(PAGE, dtype=torch.uint8)) is None
    block = arena.send(tensor)
    assert block is not None
    assert arena.send(tensor) is None
    address = tensor.data_ptr()
    del tensor  # has left it to the receiver
    assert allocate_bytes(arena, PAGE).data_ptr() != address
    received = arena.receive(block, (2, PAGE // 2), torch.uint8)
    assert received.shape == (2, PAGE // 2) and (received == 7).all()
    del received
    assert allocate_bytes(arena, PAGE).data_ptr() == address


def test_arena_has_no_name_that_could_outlive_its_processes() -> None:
    arena = SharedArena(10 * PAGE)
    assert os.fstat(arena._file.fileno()).st_nlink == 0


def test_arena_ends_with_its_last_tensor() -> None:
    arena = SharedArena(10 * PAGE)
    tensor, descriptor = allocate_bytes(arena, PAGE, 3), arena._file.fileno()
    del arena
    assert (tensor == 3).all() and os.fstat(descriptor)
    del tensor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_arenas_that_cannot_be_created_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(1, "Operation not permitted")

    assert create_arenas(2, 0) == []
    assert [arena.num_bytes for arena in create_arenas(2, PAGE)] == [PAGE, PAGE]
    monkeypatch.setattr(os, "memfd_create", refuse)
    assert create_arenas(2, 5_000_000_000) == []
    assert "data.frame_arena_gb=5 for each of 2 workers: Operation not permitted" in caplog.text


class SharedTensors(Dataset[Tensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        tensor = empty_shared((2, 3, 5), torch.int16)  # (2, 3, 5)
        was_shared = tensor.is_shared()
        tensor.fill_(index + 2 * was_shared)
        return tensor


@pytest.mark.parametrize(("num_workers", "expected"), [(0, [0, 1]), (1, [2, 3])])
def test_new_memory_is_shared_in_workers_only(num_workers: int, expected: list[int]) -> None:
    tensors = list(DataLoader(SharedTensors(), batch_size=None, num_workers=num_workers))
    assert [set(tensor.flatten().tolist()) for tensor in tensors] == [{x} for x in expected]
    assert all(tensor.shape == (2, 3, 5) for tensor in tensors)


def test_empty_shared_allocates_from_the_active_arena_until_it_is_full() -> None:
    arena = SharedArena(2 * PAGE)
    with activate(arena):
        kept = [empty_shared((PAGE,), torch.uint8) for _ in range(3)]
    free = [empty_shared((PAGE,), torch.uint8)]
    assert [arena.send(tensor) is not None for tensor in kept + free] == [True, True, False, False]
