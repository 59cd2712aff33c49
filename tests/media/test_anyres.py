"""Tiles of one image, and padded squares of several."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_hour.config.schema import ImageConfig
from lit_hour.errors import ImageError
from lit_hour.media.anyres import choose_grid, letterbox, load_image_set, load_tiled_image
from lit_hour.types import TiledImage
from tests.media.helpers import encode_image, gradient_image, noise_image

SIZE = 384


def load(image: Image.Image, image_size: int = SIZE, max_grid: int = 6) -> TiledImage:
    data = encode_image(image, "BMP")
    return load_tiled_image(data, "x", image_size, ImageConfig(max_grid=max_grid))


def join_tiles(tiled: TiledImage) -> Tensor:
    """The canvas that the tiles were cut from: `(3, height, width)`."""
    rows, columns = tiled.grid
    lines = [
        torch.cat(list(tiled.tiles[1 + row * columns :][:columns]), dim=2) for row in range(rows)
    ]
    return torch.cat(lines, dim=1)


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_choose_grid_equals_published_code(golden: Path) -> None:
    recorded = json.loads((golden / "images_uniform.json").read_text())["cases"].values()
    cases = [case for case in recorded if "grid_wh" in case]
    assert len(cases) == 3
    for case in cases:
        width, height = case["image_size_wh"]
        columns, rows = case["grid_wh"]
        tiled = load(gradient_image(width, height))
        assert tiled.grid == (rows, columns)
        assert (len(tiled), tiled.size_pixels) == (case["tiles"], (height, width))


def test_choose_grid_keeps_most_pixels_then_wastes_least() -> None:
    cases = {
        (10, 10): (1, 1),  # enlarging adds nothing, so the smallest bars win
        (384, 384): (1, 1),
        (385, 385): (2, 2),
        (768, 384): (1, 2),
        (384, 768): (2, 1),
        (3000, 30): (1, 6),
        (30, 3000): (6, 1),
        (9000, 8000): (6, 6),  # 5 rows and 6 columns have smaller bars but keep fewer pixels
    }
    for (width, height), rows_and_columns in cases.items():
        assert choose_grid(width, height, SIZE, 6) == rows_and_columns, (width, height)
        assert choose_grid(width, height, SIZE, 1) == (1, 1), (width, height)


@pytest.mark.parametrize("size", [(700, 380), (420, 1100), (333, 100), (1, 1), (60, 1), (7, 500)])
def test_letterbox_centers_an_image_on_black(size: tuple[int, int]) -> None:
    image = noise_image(*size)
    tiled = load(image, 64, max_grid=3)
    rows, columns = tiled.grid
    canvas = join_tiles(tiled)
    assert canvas.shape == (3, rows * 64, columns * 64)
    scale = min(columns * 64 / size[0], rows * 64 / size[1])
    width, height = (
        min(-int(-length * scale // 1), most)
        for length, most in zip(size, (columns * 64, rows * 64), strict=True)
    )
    left, top = (columns * 64 - width) // 2, (rows * 64 - height) // 2
    expected = torch.zeros_like(canvas)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    expected[:, top : top + height, left : left + width] = to_tensor(resized)
    assert torch.equal(canvas, expected)


def test_letterbox_rounds_as_published() -> None:
    # 273 * 128 / 364 is 96, but 128 / 364 is rounded up, and 273 times that is slightly more.
    canvas = letterbox(Image.new("RGB", (364, 273), "white"), 128, 128)
    assert np.count_nonzero(np.array(canvas)[:, 64, 0]) == 97


def test_tiled_image_starts_with_the_whole_image_then_tiles_by_row() -> None:
    image = gradient_image(1150, 760)
    tiled = load(image)
    assert tiled.grid == (2, 3)
    assert tiled.tiles.shape == (7, 3, SIZE, SIZE) and tiled.tiles.dtype == torch.uint8
    whole = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert torch.equal(tiled.tiles[0], to_tensor(whole))
    inner = tiled.tiles[1:, :, 100:-100, 100:-100].float().mean(dim=(2, 3))  # (tiles, 3)
    assert inner[:, 2].sub(200).abs().max() < 1  # no black bars there
    assert inner[:, 0].view(2, 3).diff(dim=1).min() > 60  # redder to the right in each row
    assert inner[:, 1].view(2, 3).diff(dim=0).min() > 100  # greener in the next row


def test_tiled_image_applies_the_orientation_before_it_chooses_the_grid() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode_image(gradient_image(128, 64), "PNG", exif=exif)
    tiled = load_tiled_image(data, "x", 64, ImageConfig())
    assert (tiled.grid, tiled.size_pixels) == ((2, 1), (128, 64))


def test_tiled_image_names_an_invalid_image() -> None:
    with pytest.raises(ImageError, match=r"a/b\.png"):
        load_tiled_image(b"nothing", "a/b.png", 64, ImageConfig())


# Several images


@pytest.mark.parametrize("size", [(90, 40), (40, 91), (50, 50), (32, 32), (60, 1)])
def test_image_set_centers_each_image_on_a_gray_square(size: tuple[int, int]) -> None:
    image = noise_image(*size)
    side = max(size)
    square = np.full((side, side, 3), 127, np.uint8)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square[top : top + size[1], left : left + size[0]] = np.array(image)
    expected = np.array(Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC))
    files = [("a", encode_image(image)), ("b", encode_image(noise_image(10, 10)))]
    images = load_image_set(files, 32).images
    assert images.shape == (2, 3, 32, 32) and images.dtype == torch.uint8
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), expected)


def test_image_set_keeps_the_order_of_images() -> None:
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    files = [
        (f"{number}", encode_image(Image.new("RGB", (8, 8), color)))
        for number, color in enumerate(colors)
    ]
    assert [tuple(image[:, 4, 4].tolist()) for image in load_image_set(files, 8).images] == colors


def test_image_set_names_the_invalid_image() -> None:
    good = encode_image(noise_image(10, 10))
    with pytest.raises(ImageError, match=r"second\.png \(30 bytes\)"):
        load_image_set([("first.png", good), ("second.png", good[:30])], 32)


def test_image_set_refuses_a_square_with_too_many_pixels() -> None:
    panorama = encode_image(Image.new("RGB", (9_000, 100)))
    message = r"panorama\.png has 9000 x 100 pixels; padded to a square .*80,000,000\. Shrink it"
    with pytest.raises(ImageError, match=message):
        load_image_set([("panorama.png", panorama)], 32)
