"""Repositories of pictures against the published ones, and against pictures whose tokens tell where they were."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from lit_hour.config.model import MemAugConfig
from lit_hour.model.forgetting import forget
from lit_hour.model.memory_repository import (
    MemoryRepository,
    TokenGrid,
    build_image_set_repository,
    build_tiled_image_repository,
    cut_letterbox,
)
from lit_hour.model.multimodal_inputs import build_memaug_query
from tests.model.published import read

CASES = ("single_one_tile", "anyres_small", "anyres_tall", "anyres_downscaled", "multi_image_3")
PUBLISHED = MemAugConfig()


def picture_tokens(num_pictures: int) -> Tensor:
    """The recorded features, which are a formula."""
    place, channel = torch.arange(729 * num_pictures)[:, None], torch.arange(4)
    return (((41 * place + 677 * channel + 3) % 2039 - 1019) / 1024).view(num_pictures, 729, 4)


def repository_of(facts: dict[str, Any], end: Tensor) -> MemoryRepository:
    if "grid_wh" not in facts:
        return build_image_set_repository(picture_tokens(facts.get("images", 1)), end)
    (columns, rows), (width, height) = facts["grid_wh"], facts["image_size_wh"]
    return build_tiled_image_repository(
        picture_tokens(facts["tiles"]), end, (rows, columns), (height, width), max_tiles=9
    )


def blocks_of(repository: MemoryRepository, spatial: str = "uniform") -> tuple[Tensor, ...]:
    return forget(repository, torch.zeros(1, 4), spatial, PUBLISHED, Generator().manual_seed(0))


def checksum(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_memory_and_query_of_pictures_are_the_published_ones(golden: Path, name: str) -> None:
    recorded, sidecar = read(golden, "images_uniform")
    facts = sidecar["cases"][name]
    expected = {
        key.removeprefix(f"{name}/"): value
        for key, value in recorded.items()
        if key.startswith(f"{name}/")
    }
    repository = repository_of(facts, recorded["image_newline"])
    kept = blocks_of(repository)
    assert torch.equal(repository.positions, expected.get("kv_position_ids", repository.positions))
    assert list(repository.tokens.shape) == facts["kv_shape"]
    tokens = torch.stack([repository.tokens[places] for places in kept])  # (placeholders, kept, 4)
    positions = torch.stack(
        [repository.positions[places] for places in kept]
    )  # (placeholders, kept)
    torch.testing.assert_close(
        tokens.view(facts["q_shape"]), expected["q_features"], atol=2e-6, rtol=0
    )
    assert torch.equal(positions.view(expected["q_position_ids"].shape), expected["q_position_ids"])
    if "kv_features" in expected:  # the bilinear weights of another torch differ in the last bit
        torch.testing.assert_close(repository.tokens, expected["kv_features"], atol=2e-6, rtol=0)
    else:
        assert checksum(repository.tokens) == facts["sha256_float32_le"]["kv_features"]
    ids = torch.tensor(facts["input_ids"])
    embeddings = torch.zeros(len(ids), 4)
    query = build_memaug_query(
        ids, embeddings, torch.ones_like(ids, dtype=torch.bool), list(tokens), list(positions)
    )
    assert torch.equal(query.positions, expected["memaug_q_position_ids"])


def test_end_tokens_stand_behind_the_rows_of_the_picture(golden: Path) -> None:
    recorded, sidecar = read(golden, "images_uniform")
    for name in CASES[1:4]:
        repository = repository_of(sidecar["cases"][name], recorded["image_newline"])
        _, large = repository.grids
        ends = (
            (repository.tokens == recorded["image_newline"]).all(dim=1).nonzero().flatten()
        )  # (ends,)
        assert torch.equal(
            ends, 729 + large.columns + torch.arange(large.rows) * (large.columns + 1)
        )
        assert (repository.positions[ends] == large.rows * large.columns).all()


@pytest.mark.parametrize(
    ("name", "num_kept"),
    (("single_one_tile", 183 + 1), ("anyres_small", None), ("multi_image_3", 184)),
)
def test_random_forgetting_draws_for_each_grid(
    golden: Path, name: str, num_kept: int | None
) -> None:
    recorded, sidecar = read(golden, "images_uniform")
    repository = repository_of(sidecar["cases"][name], recorded["image_newline"])
    kept = blocks_of(repository, "random")
    generator = Generator().manual_seed(0)
    starts = 0
    for raster, places in zip(repository.grids, kept if num_kept else [kept[0]] * 2, strict=True):
        draws = torch.rand(1, raster.num_patch_tokens, generator=generator)[0]
        chosen = draws.argsort()[: -(-raster.num_patch_tokens // 4)].sort().values  # (kept,)
        rows_before = chosen // raster.columns if raster.newline == "row" else 0
        assert set((starts + chosen + rows_before).tolist()) <= set(places.tolist())
        starts += raster.num_tokens
        assert num_kept is None or len(places) == num_kept
    if num_kept is None:  # an end token for each row that kept a token
        _, large = repository.grids
        assert len(kept[0]) == 183 + -(-large.num_patch_tokens // 4) + large.rows


def test_tiles_become_one_picture_again() -> None:
    """Tokens that are their own place in the picture come back in raster order."""
    rows, columns, side = 2, 3, 4
    places = torch.arange(rows * side * columns * side).float().view(rows, side, columns, side)
    tiles = places.permute(0, 2, 1, 3).reshape(rows * columns, side * side, 1)  # (tiles, tokens, 1)
    tokens = torch.cat([torch.zeros(1, side * side, 1), tiles])
    repository = build_tiled_image_repository(
        tokens, torch.tensor([-1.0]), (rows, columns), (200, 300), max_tiles=9
    )
    large = repository.tokens[side * side :].view(rows * side, columns * side + 1)
    assert (
        torch.equal(large[:, :-1], places.view(rows * side, columns * side))
        and (large[:, -1] == -1).all()
    )
    assert repository.grids == (TokenGrid(1, 4, 4, "none"), TokenGrid(1, 8, 12, "row"))
    assert (repository.num_frames, repository.num_placeholders) == (0, 1)


@pytest.mark.parametrize(
    ("size_pixels", "expected"),
    (((100, 100), (27, 27)), ((50, 100), (13, 27)), ((380, 700), (14, 27)), ((100, 20), (27, 5))),
)
def test_the_letterbox_is_cut_on_both_sides_alike(
    size_pixels: tuple[int, int], expected: tuple[int, int]
) -> None:
    place = torch.arange(27).float()
    grid = torch.stack(
        [place[:, None].expand(27, 27), place.expand(27, 27)]
    )  # (2, 27, 27) row and column
    left = cut_letterbox(grid, size_pixels)
    height, width = left.shape[1:]
    assert abs(height - expected[0]) <= 1 and abs(width - expected[1]) <= 1
    assert left[0].min() + left[0].max() == 26 and left[1].min() + left[1].max() == 26


@pytest.mark.parametrize("side", (4, 14, 27))
@pytest.mark.parametrize("size_pixels", ((1, 100), (100, 1)))
def test_something_is_left_of_the_thinnest_picture(side: int, size_pixels: tuple[int, int]) -> None:
    assert min(cut_letterbox(torch.zeros(1, side, side), size_pixels).shape[1:]) in (1, 2)
