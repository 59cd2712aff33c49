"""Repositories of images against the published ones and against tokens of coordinates."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from lit_hour.model.memory_repository import (
    TokenGrid,
    build_tiled_image_repository,
    crop_letterbox,
)
from lit_hour.model.multimodal_inputs import build_memaug_query
from tests.model.published_model import IMAGE_CASES, image_repository, kept_indices, read
from tests.model.test_multimodal_inputs import text_of


def checksum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_repository_and_query_equal_published(golden: Path, name: str) -> None:
    recorded, sidecar = read(golden, "images_uniform")
    facts = sidecar["cases"][name]
    prefix = f"{name}/"
    expected = {
        key.removeprefix(prefix): value for key, value in recorded.items() if key.startswith(prefix)
    }
    repository = image_repository(facts, recorded["image_newline"])
    kept = kept_indices(repository)
    assert torch.equal(repository.positions, expected.get("kv_position_ids", repository.positions))
    assert list(repository.tokens.shape) == facts["kv_shape"]
    tokens = torch.stack([repository.tokens[indices] for indices in kept])  # (images, kept, 4)
    positions = torch.stack([repository.positions[indices] for indices in kept])  # (images, kept)
    torch.testing.assert_close(
        tokens.view(facts["q_shape"]), expected["q_features"], atol=2e-6, rtol=0
    )
    assert torch.equal(positions.view(expected["q_position_ids"].shape), expected["q_position_ids"])
    if "kv_features" in expected:  # bilinear weights of another torch differ in the last bit
        torch.testing.assert_close(repository.tokens, expected["kv_features"], atol=2e-6, rtol=0)
    else:
        assert checksum(repository.tokens) == facts["sha256_float32_le"]["kv_features"]
    ids = torch.tensor(facts["input_ids"])
    query = build_memaug_query(text_of(ids, torch.zeros(len(ids), 4)), repository, kept)
    assert torch.equal(query.positions, expected["memaug_q_position_ids"])


def test_tiled_image_has_newline_tokens_after_rows(golden: Path) -> None:
    recorded, sidecar = read(golden, "images_uniform")
    newline = recorded["image_newline"]
    for name in IMAGE_CASES[1:4]:
        repository = image_repository(sidecar["cases"][name], newline)
        _, large = repository.grids
        newlines = (repository.tokens == newline).all(dim=1).nonzero().flatten()  # (newlines,)
        rows = torch.arange(large.rows)  # (rows,)
        assert torch.equal(newlines, 729 + large.columns + rows * (large.columns + 1))
        assert (repository.positions[newlines] == large.rows * large.columns).all()


@pytest.mark.parametrize(
    ("name", "num_kept"),
    (("single_one_tile", 183 + 1), ("anyres_small", None), ("multi_image_3", 184)),
)
def test_random_forgetting_draws_for_each_grid(
    golden: Path, name: str, num_kept: int | None
) -> None:
    recorded, sidecar = read(golden, "images_uniform")
    repository = image_repository(sidecar["cases"][name], recorded["image_newline"])
    kept = kept_indices(repository, "random")
    generator = Generator().manual_seed(0)
    start = 0
    for grid, indices in zip(repository.grids, kept if num_kept else [kept[0]] * 2, strict=True):
        num_patches = grid.rows * grid.columns
        draws = torch.rand(1, num_patches, generator=generator)[0]
        chosen = draws.argsort()[: -(-num_patches // 4)].sort().values  # (kept,)
        num_newlines_before = chosen // grid.columns if grid.newline == "row" else 0
        assert set((start + chosen + num_newlines_before).tolist()) <= set(indices.tolist())
        start += num_patches + {"grid": 1, "row": grid.rows, "none": 0}[grid.newline]
        assert num_kept is None or len(indices) == num_kept
    if num_kept is None:  # and the newline token of each row, all of which kept a token
        _, large = repository.grids
        assert len(kept[0]) == 183 + -(-large.rows * large.columns // 4) + large.rows


def test_tiles_are_joined_in_raster_order() -> None:
    rows, columns, side = 2, 3, 4
    indices = torch.arange(rows * side * columns * side).float().view(rows, side, columns, side)
    tiles = indices.permute(0, 2, 1, 3).reshape(rows * columns, side * side, 1)
    tokens = torch.cat([torch.zeros(1, side * side, 1), tiles])  # (1 + tiles, tokens, 1)
    repository = build_tiled_image_repository(
        tokens, torch.tensor([-1.0]), (rows, columns), (200, 300), max_tiles=9
    )
    large = repository.tokens[side * side :].view(rows * side, columns * side + 1)
    assert torch.equal(large[:, :-1], indices.view(rows * side, columns * side))
    assert (large[:, -1] == -1).all()
    assert repository.grids == (TokenGrid(1, 4, 4, "none"), TokenGrid(1, 8, 12, "row"))
    assert (repository.num_frames, repository.num_placeholders) == (0, 1)


@pytest.mark.parametrize(
    ("size_pixels", "expected"),
    (((100, 100), (27, 27)), ((50, 100), (13, 27)), ((380, 700), (14, 27)), ((100, 20), (27, 5))),
)
def test_letterbox_is_cropped_equally_on_both_sides(
    size_pixels: tuple[int, int], expected: tuple[int, int]
) -> None:
    line = torch.arange(27).float()
    grid = torch.stack([line[:, None].expand(27, 27), line.expand(27, 27)])  # row and column
    cropped = crop_letterbox(grid, size_pixels)
    height, width = cropped.shape[1:]
    assert abs(height - expected[0]) <= 1 and abs(width - expected[1]) <= 1
    assert cropped[0].min() + cropped[0].max() == 26 and cropped[1].min() + cropped[1].max() == 26


@pytest.mark.parametrize("side", (4, 14, 27))
@pytest.mark.parametrize("size_pixels", ((1, 100), (100, 1)))
def test_letterbox_of_the_thinnest_image_leaves_a_line(
    side: int, size_pixels: tuple[int, int]
) -> None:
    assert min(crop_letterbox(torch.zeros(1, side, side), size_pixels).shape[1:]) in (1, 2)
