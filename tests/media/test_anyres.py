import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_hour.config.schema import ImageConfig
from lit_hour.errors import ImageError
from lit_hour.media.anyres import choose_grid, letterbox, load_tiled_image
from lit_hour.types import TiledImage
from tests.media.drawn import file_of, noise, plane

SIZE = 384


def load(image: Image.Image, size_pixels: int = SIZE, max_grid: int = 6) -> TiledImage:
    return load_tiled_image(file_of(image, "BMP"), "x", size_pixels, ImageConfig(max_grid=max_grid))


def put_together(tiled: TiledImage) -> Tensor:
    """The canvas that the tiles were cut from: `(3, height, width)`."""
    rows, columns = tiled.grid
    lines = [
        torch.cat(list(tiled.tiles[1 + row * columns :][:columns]), dim=2) for row in range(rows)
    ]
    return torch.cat(lines, dim=1)


def tensor_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_grids_are_those_of_the_published_code(golden: Path) -> None:
    cases = [
        case
        for case in json.loads((golden / "images_uniform.json").read_text())["cases"].values()
        if "grid_wh" in case
    ]
    assert len(cases) == 3
    for case in cases:
        width, height = case["image_size_wh"]
        columns, rows = case["grid_wh"]
        tiled = load(plane(width, height))
        assert (tiled.grid, len(tiled), tiled.size_pixels) == (
            (rows, columns),
            case["tiles"],
            (height, width),
        )


@pytest.mark.parametrize(
    ("size", "rows_and_columns"),
    [
        ((10, 10), (1, 1)),  # enlarging adds nothing: the least black wins
        ((384, 384), (1, 1)),
        ((385, 385), (2, 2)),
        ((768, 384), (1, 2)),
        ((384, 768), (2, 1)),
        ((3000, 30), (1, 6)),
        ((30, 3000), (6, 1)),
        ((9000, 8000), (6, 6)),  # 6 columns and 5 rows leave less black, but would keep less
    ],
)
def test_the_grid_keeps_most_and_then_wastes_least(
    size: tuple[int, int], rows_and_columns: tuple[int, int]
) -> None:
    width, height = size
    assert choose_grid(width, height, SIZE, 6) == rows_and_columns
    assert max(choose_grid(width, height, SIZE, 1)) == 1


@pytest.mark.parametrize("size", [(700, 380), (420, 1100), (333, 100), (1, 1), (60, 1), (7, 500)])
def test_the_picture_lies_in_the_middle_of_black(size: tuple[int, int]) -> None:
    image = noise(*size)
    tiled = load(image, 64, max_grid=3)
    rows, columns = tiled.grid
    canvas = put_together(tiled)
    assert canvas.shape == (3, rows * 64, columns * 64)
    scale = min(columns * 64 / size[0], rows * 64 / size[1])
    width, height = (
        min(-int(-length * scale // 1), most)
        for length, most in zip(size, (columns * 64, rows * 64), strict=True)
    )
    left, top = (columns * 64 - width) // 2, (rows * 64 - height) // 2
    expected = torch.zeros_like(canvas)
    expected[:, top : top + height, left : left + width] = tensor_of(
        image.resize((width, height), Image.Resampling.BICUBIC)
    )
    assert torch.equal(canvas, expected)


def test_the_fitted_side_is_rounded_as_published() -> None:
    # 273 * 128 / 364 is 96, but 128 / 364 is rounded up, and 273 times that is a little more
    canvas = letterbox(Image.new("RGB", (364, 273), "white"), 128, 128)
    assert np.count_nonzero(np.array(canvas)[:, 64, 0]) == 97


def test_the_whole_comes_first_and_the_tiles_row_by_row() -> None:
    image = plane(1150, 760)
    tiled = load(image)
    assert tiled.grid == (2, 3)
    assert tiled.tiles.shape == (7, 3, SIZE, SIZE) and tiled.tiles.dtype == torch.uint8
    assert torch.equal(
        tiled.tiles[0], tensor_of(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    )
    inner = tiled.tiles[1:, :, 100:-100, 100:-100].float().mean(dim=(2, 3))  # (tiles, 3)
    assert inner[:, 2].sub(200).abs().max() < 1  # no black there
    assert inner[:, 0].view(2, 3).diff(dim=1).min() > 60  # further right in each row
    assert inner[:, 1].view(2, 3).diff(dim=0).min() > 100  # further down in the next


def test_the_orientation_counts_before_the_grid_is_chosen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tiled = load_tiled_image(file_of(plane(128, 64), "PNG", exif=exif), "x", 64, ImageConfig())
    assert (tiled.grid, tiled.size_pixels) == ((2, 1), (128, 64))


def test_a_picture_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ImageError, match=r"a/b\.png"):
        load_tiled_image(b"nothing", "a/b.png", 64, ImageConfig())
