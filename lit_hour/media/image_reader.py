"""Decode image files to upright RGB images: `read_image`.

The EXIF orientation is applied, as viewers do; the published code ignores it and reads such images
rotated. Transparency is dropped, and only the first frame of an animation is read.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from lit_hour.errors import ImageError

MAX_PIXELS = 80_000_000  # a decompression bomb of a kilobyte can unpack to gigabytes
# The longest grid has 6 x 27 tokens, so a longer image fills at most a single row of tokens.
MAX_ASPECT = 100

# MPO is a JPEG file followed by further images.
_SUFFIX_OF_FORMAT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
FORMAT_SUFFIXES = tuple(dict.fromkeys(_SUFFIX_OF_FORMAT.values()))  # of images in shards
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # of image files

_EXIF_ORIENTATION = 0x0112
_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error)  # PIL's for damaged files


def read_image(data: bytes, name: str) -> Image.Image:
    """Decode a JPEG, PNG, WEBP or BMP file.

    Args:
        data: content of the file.
        name: where the data comes from, for error messages.

    Returns:
        An upright RGB image.

    Raises:
        ImageError: the data has another format or is damaged or cut off, or the image is empty, has
            more than `MAX_PIXELS`, or is more than `MAX_ASPECT` times as long as wide.
    """
    with _open_image(data, name) as image:
        if image.mode.startswith("I"):
            raise ImageError(f"{name} has more than 8 bits per gray value. Save it with 8.")
        turn = _TRANSPOSE_OF_ORIENTATION.get(image.getexif().get(_EXIF_ORIENTATION, 1))
        upright = image if turn is None else image.transpose(turn)
        if upright.mode == "P":  # PIL warns if a palette with transparency becomes RGB directly
            upright = upright.convert("RGBA")
        return upright.convert("RGB")


def image_suffix(data: bytes, name: str) -> str:
    """Return the suffix of the data's format, one of `FORMAT_SUFFIXES`; only the header is read.

    Raises:
        ImageError: as `read_image`, as far as the header tells.
    """
    with _open_image(data, name) as image:
        return _SUFFIX_OF_FORMAT[str(image.format)]


@contextmanager
def _open_image(data: bytes, name: str) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=["JPEG", "PNG", "WEBP", "BMP"]) as image:
                _check_size(image.width, image.height, name)
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels. Shrink it.") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} ({len(data)} bytes) is not a JPEG, PNG, WEBP or BMP file, or its header is"
            " damaged."
        ) from error
    except ImageError:  # a ValueError, too
        raise
    except _DECODE_ERRORS as error:
        raise ImageError(f"{name} ({len(data)} bytes) is damaged or cut off: {error}.") from error


def _check_size(width: int, height: int, name: str) -> None:
    """Check the size in the header, before anything is decompressed."""
    size = f"{name} has {width} x {height} pixels"
    if width < 1 or height < 1:
        raise ImageError(f"{size}. Each side must have at least one.")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{size}, more than {MAX_PIXELS:,}. Shrink it.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"{size}. Its aspect ratio exceeds {MAX_ASPECT}:1, so its short side would be thinner"
            " than a row of tokens. Crop it."
        )
