import numpy as np
import pytest
import torch
from PIL import Image

from lit_hour.errors import ImageError
from lit_hour.media.anyres import load_image_set
from tests.media.drawn import file_of, noise

GREY = (127, 127, 127)


@pytest.mark.parametrize("size", [(90, 40), (40, 91), (50, 50), (32, 32), (60, 1)])
def test_each_picture_lies_in_the_middle_of_a_grey_square(size: tuple[int, int]) -> None:
    image = noise(*size)
    side = max(size)
    square = np.full((side, side, 3), 127, np.uint8)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square[top : top + size[1], left : left + size[0]] = np.array(image)
    expected = np.array(Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC))
    pictures = load_image_set([("a", file_of(image)), ("b", file_of(noise(10, 10)))], 32)
    assert pictures.images.shape == (2, 3, 32, 32) and pictures.images.dtype == torch.uint8
    assert np.array_equal(pictures.images[0].permute(1, 2, 0).numpy(), expected)


def test_pictures_keep_their_order() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    files = [
        (f"{number}", file_of(Image.new("RGB", (8, 8), colour)))
        for number, colour in enumerate(colours)
    ]
    assert [tuple(image[:, 4, 4].tolist()) for image in load_image_set(files, 8).images] == colours


def test_the_one_that_cannot_be_read_is_named() -> None:
    good = file_of(noise(10, 10))
    with pytest.raises(ImageError, match=r"second\.png \(30 bytes\)"):
        load_image_set([("first.png", good), ("second.png", good[:30])], 32)


def test_a_square_that_would_have_too_many_pixels_is_refused() -> None:
    panorama = file_of(Image.new("RGB", (9_000, 100)))
    with pytest.raises(
        ImageError, match=r"panorama\.png has 9000 x 100 pixels; its square .*80,000,000: shrink it"
    ):
        load_image_set([("panorama.png", panorama)], 32)
