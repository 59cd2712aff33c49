"""Image files to upright RGB images, hostile and damaged files included."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from lit_hour.errors import ImageError
from lit_hour.media.image_reader import (
    FORMAT_SUFFIXES,
    MAX_ASPECT,
    MAX_PIXELS,
    image_suffix,
    read_image,
)
from lit_hour.media.transforms import resize_image
from tests.media.helpers import encode_image, noise_image

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}


def pixels(image: Image.Image) -> np.ndarray:
    return np.array(image)


@pytest.mark.parametrize("image_format", FORMATS)
def test_read_image_and_image_suffix_follow_the_content(image_format: str) -> None:
    data = encode_image(noise_image(30, 20), image_format)
    image = read_image(data, "wrongly named.gif")
    assert (image.mode, image.size) == ("RGB", (30, 20))
    assert np.array_equal(pixels(image), pixels(Image.open(io.BytesIO(data)).convert("RGB")))
    assert image_suffix(data, "x") == FORMATS[image_format]
    assert tuple(FORMATS.values()) == FORMAT_SUFFIXES


def test_read_image_reads_mpo_as_jpeg() -> None:
    buffer = io.BytesIO()
    noise_image(30, 20).save(
        buffer, "MPO", save_all=True, append_images=[noise_image(30, 20, seed=1)]
    )
    data = buffer.getvalue()
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert image_suffix(data, "x") == "jpg" and read_image(data, "x").size == (30, 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_read_image_converts_other_modes_to_rgb(mode: str) -> None:
    data = encode_image(Image.new(mode, (30, 20)), "PNG")
    assert read_image(data, "x").mode == "RGB"


def test_read_image_refuses_16_bit_gray() -> None:
    with pytest.raises(ImageError, match="x has more than 8 bits"):
        read_image(encode_image(Image.new("I;16", (30, 20), 700), "PNG"), "x")


@pytest.mark.filterwarnings("error")
def test_read_image_of_a_transparent_palette_gives_no_warning() -> None:
    image = Image.new("P", (30, 20))
    image.putpalette([9, 8, 7] * 256)
    assert read_image(encode_image(image, "PNG", transparency=bytes([0, 128])), "x").getpixel(
        (0, 0)
    ) == (9, 8, 7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_applies_the_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode_image(noise_image(30, 20), "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(pixels(read_image(data, "x")), pixels(upright))
    assert upright.size == ((30, 20) if orientation < 5 else (20, 30))


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40), b"<svg/>", bytes(1000)]
)
def test_read_image_refuses_data_that_is_not_an_image(data: bytes) -> None:
    for read in (read_image, image_suffix):
        with pytest.raises(
            ImageError, match=rf"sub/a\.png \({len(data)} bytes\) is not a JPEG, PNG, WEBP or BMP"
        ):
            read(data, "sub/a.png")


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "ICO"])
def test_read_image_refuses_other_formats(image_format: str) -> None:
    with pytest.raises(ImageError, match="is not a JPEG, PNG, WEBP or BMP"):
        read_image(encode_image(noise_image(32, 32), image_format), "x")


@pytest.mark.parametrize("image_format", FORMATS)
def test_read_image_refuses_a_truncated_file_or_reads_all_of_it(image_format: str) -> None:
    data = encode_image(noise_image(12, 8), image_format)
    whole = pixels(read_image(data, "x"))
    num_refused = 0
    for length in range(len(data)):
        try:
            image = read_image(data[:length], "folder/x")
        except ImageError as error:
            assert str(error).startswith(f"folder/x ({length} bytes) is ")
            num_refused += 1
        else:  # only the end marker is missing
            assert np.array_equal(pixels(image), whole)
    assert num_refused >= len(data) - 20


@pytest.mark.filterwarnings("ignore")  # PIL warns about damaged EXIF
@pytest.mark.parametrize("image_format", FORMATS)
def test_read_image_raises_only_image_errors_for_corrupt_files(image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if image_format == "BMP" else {"exif": exif}
    data = encode_image(noise_image(12, 8), image_format, **options)
    generator = np.random.default_rng(0)
    num_refused = 0
    for _ in range(500):
        changed = bytearray(data)
        for offset in generator.integers(min(len(data), 120), size=2):
            changed[offset] = generator.integers(256)
        try:
            assert read_image(bytes(changed), "x").mode == "RGB"
        except ImageError as error:
            assert str(error).startswith("x ")
            num_refused += 1
    assert num_refused > 50


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file with this size in its header and without pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + bytes(4)
        + b"IDAT"
    )


# Over our limit, over PIL's warning, over PIL's limit.
@pytest.mark.parametrize("side", [9_000, 10_000, 60_000])
def test_read_image_refuses_a_decompression_bomb_undecoded(side: int) -> None:
    assert side**2 > MAX_PIXELS
    with pytest.raises(ImageError, match=r"bomb\.png has .*more than 80,000,000.*Shrink it"):
        read_image(png_header(side, side), "bomb.png")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_read_image_refuses_an_image_of_zero_size(size: tuple[int, int]) -> None:
    bitmap = bytearray(encode_image(noise_image(5, 5), "BMP"))
    struct.pack_into("<ii", bitmap, 18, *size)
    for data in (png_header(*size), bytes(bitmap)):
        with pytest.raises(ImageError, match=r"empty\.png"):
            read_image(data, "empty.png")


def test_read_image_refuses_an_extreme_aspect_ratio() -> None:
    ribbon = 2 * MAX_ASPECT
    for width, height in ((ribbon + 1, 2), (2, ribbon + 1)):
        message = rf"line\.png has {width} x {height} pixels\. Its aspect ratio exceeds 100:1"
        with pytest.raises(ImageError, match=message):
            read_image(encode_image(noise_image(width, height), "PNG"), "line.png")
    assert read_image(encode_image(noise_image(ribbon, 2), "PNG"), "x").size == (ribbon, 2)


def test_resize_image_equals_published_preprocessing(golden: Path) -> None:
    tensors = load_file(golden / "siglip_tiny.safetensors")
    image = Image.fromarray(tensors["image_uint8"].numpy())
    square = resize_image(read_image(encode_image(image, "PNG"), "x"), 384)
    assert square.shape == (3, 384, 384) and square.dtype == torch.uint8 and square.is_contiguous()
    published = tensors["pixel_values_every_8th"]
    ours = ((square.float() - 127.5) / 127.5)[None, :, ::8, ::8]
    assert (ours.view_as(published) - published).abs().max() < 1e-6
