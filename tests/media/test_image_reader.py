import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from lit_hour.errors import ImageError
from lit_hour.media.image_reader import (
    IMAGE_SUFFIXES,
    MAX_ASPECT,
    MAX_PIXELS,
    image_suffix,
    read_image,
    to_square_tensor,
)
from tests.media.drawn import file_of, noise

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}


def pixels(image: Image.Image) -> np.ndarray:
    return np.array(image)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read_and_told_by_its_bytes(format: str) -> None:
    data = file_of(noise(30, 20), format)
    image = read_image(data, "wrongly named.gif")
    assert (image.mode, image.size) == ("RGB", (30, 20))
    assert np.array_equal(pixels(image), pixels(Image.open(io.BytesIO(data)).convert("RGB")))
    assert image_suffix(data, "x") == FORMATS[format]
    assert tuple(FORMATS.values()) == IMAGE_SUFFIXES


def test_a_jpeg_with_a_second_picture_behind_it_is_a_jpeg() -> None:
    buffer = io.BytesIO()
    noise(30, 20).save(buffer, "MPO", save_all=True, append_images=[noise(30, 20, seed=1)])
    data = buffer.getvalue()
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert image_suffix(data, "x") == "jpg" and read_image(data, "x").size == (30, 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(mode: str) -> None:
    data = file_of(Image.new(mode, (30, 20)), "PNG")
    assert read_image(data, "x").mode == "RGB"


def test_sixteen_bits_of_grey_are_refused_and_not_made_white() -> None:
    with pytest.raises(ImageError, match="x has more than 8 bits"):
        read_image(file_of(Image.new("I;16", (30, 20), 700), "PNG"), "x")


@pytest.mark.filterwarnings("error")
def test_a_palette_with_a_clear_colour_needs_no_warning() -> None:
    image = Image.new("P", (30, 20))
    image.putpalette([9, 8, 7] * 256)
    assert read_image(file_of(image, "PNG", transparency=bytes([0, 128])), "x").getpixel(
        (0, 0)
    ) == (9, 8, 7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_orientation_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(noise(30, 20), "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(pixels(read_image(data, "x")), pixels(upright))
    assert upright.size == ((30, 20) if orientation < 5 else (20, 30))


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40), b"<svg/>", bytes(1000)]
)
def test_what_is_no_picture_is_refused_by_name(data: bytes) -> None:
    for read in (read_image, image_suffix):
        with pytest.raises(
            ImageError, match=rf"sub/a\.png \({len(data)} bytes\) is no JPEG, PNG, WEBP or BMP"
        ):
            read(data, "sub/a.png")


@pytest.mark.parametrize("format", ["GIF", "TIFF", "ICO"])
def test_other_formats_are_refused(format: str) -> None:
    with pytest.raises(ImageError, match="is no JPEG, PNG, WEBP or BMP"):
        read_image(file_of(noise(32, 32), format), "x")


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_anywhere_is_refused_or_has_all_its_pixels(format: str) -> None:
    data = file_of(noise(12, 8), format)
    whole = pixels(read_image(data, "x"))
    num_refused = 0
    for length in range(len(data)):
        try:
            image = read_image(data[:length], "folder/x")
        except ImageError as error:
            assert str(error).startswith(f"folder/x ({length} bytes) is ")
            num_refused += 1
        else:  # only the mark of the end is missing
            assert np.array_equal(pixels(image), whole)
    assert num_refused >= len(data) - 20


@pytest.mark.filterwarnings("ignore")  # PIL's, of damaged EXIF
@pytest.mark.parametrize("format", FORMATS)
def test_changed_bytes_are_refused_or_read_and_nothing_else_happens(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(noise(12, 8), format, **({} if format == "BMP" else {"exif": exif}))
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        changed = bytearray(data)
        for place in generator.integers(min(len(data), 120), size=2):
            changed[place] = generator.integers(256)
        try:
            assert read_image(bytes(changed), "x").mode == "RGB"
        except ImageError as error:
            assert str(error).startswith("x ")
            refused += 1
    assert refused > 50


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + bytes(4)
        + b"IDAT"
    )


@pytest.mark.parametrize(
    "side", [9_000, 10_000, 60_000]
)  # over our limit, over PIL's warning, over PIL's limit
def test_a_picture_that_would_unpack_to_gigabytes_is_refused_undecoded(side: int) -> None:
    assert side**2 > MAX_PIXELS
    with pytest.raises(ImageError, match=r"bomb\.png has .*more than 80,000,000.*shrink it"):
        read_image(png_header(side, side), "bomb.png")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_of_zero_size_is_refused(size: tuple[int, int]) -> None:
    bitmap = bytearray(file_of(noise(5, 5), "BMP"))
    struct.pack_into("<ii", bitmap, 18, *size)
    for data in (png_header(*size), bytes(bitmap)):
        with pytest.raises(ImageError, match=r"empty\.png"):
            read_image(data, "empty.png")


def test_a_line_is_refused_and_a_ribbon_is_not() -> None:
    ribbon = 2 * MAX_ASPECT
    for width, height in ((ribbon + 1, 2), (2, ribbon + 1)):
        with pytest.raises(
            ImageError, match=rf"line\.png has {width} x {height} pixels, longer than 100:1"
        ):
            read_image(file_of(noise(width, height), "PNG"), "line.png")
    assert read_image(file_of(noise(ribbon, 2), "PNG"), "x").size == (ribbon, 2)


def test_preprocessing_equals_the_published(golden) -> None:
    tensors = load_file(golden / "siglip_tiny.safetensors")
    image = Image.fromarray(tensors["image_uint8"].numpy())
    seen = read_image(file_of(image, "PNG"), "x")
    square = to_square_tensor(seen, 384)
    assert square.shape == (3, 384, 384) and square.dtype == torch.uint8 and square.is_contiguous()
    published = tensors["pixel_values_every_8th"]
    ours = ((square.float() - 127.5) / 127.5)[None, :, ::8, ::8]
    assert (ours.view_as(published) - published).abs().max() < 1e-6
