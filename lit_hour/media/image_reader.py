"""The bytes of a picture file in, an upright RGB picture out. What cannot be used is refused by name.

A picture stands as its EXIF orientation says, as viewers show it; the published code ignores that and reads such pictures
turned. Transparency is dropped, and of an animation the first picture counts.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lit_hour.errors import ImageError

MAX_PIXELS = 80_000_000  # a hostile file can be a kilobyte that unpacks to gigabytes
MAX_ASPECT = (
    100  # the longest grid has 6 x 27 tokens: a longer picture is a single line in it, or less
)

_SUFFIX_OF_FORMAT = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
}  # MPO: a JPEG with more behind it
IMAGE_SUFFIXES = tuple(dict.fromkeys(_SUFFIX_OF_FORMAT.values()))

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
)  # what PIL raises at cut and at changed bytes


def read_image(data: bytes, name: str) -> Image.Image:
    """Read a JPEG, PNG, WEBP or BMP whole.

    Args:
        data: the whole file.
        name: where the data is from, for the error.

    Returns:
        An upright RGB picture.

    Raises:
        ImageError: the data is of no such format, damaged or cut off, or the picture is empty, has more than `MAX_PIXELS`,
            or is more than `MAX_ASPECT` times as long as wide.
    """
    with _open_image(data, name) as image:
        if image.mode.startswith("I"):
            raise ImageError(f"{name} has more than 8 bits for each shade of grey: save it with 8")
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        upright = image if turn is None else image.transpose(turn)
        return (upright.convert("RGBA") if upright.mode == "P" else upright).convert(
            "RGB"
        )  # PIL warns of a clear colour


def image_suffix(data: bytes, name: str) -> str:
    """The suffix of the format that the data is in, one of `SUFFIXES`; only the header is read.

    Raises:
        ImageError: as `read_image`, as far as the header shows it.
    """
    with _open_image(data, name) as image:
        return _SUFFIX_OF_FORMAT[str(image.format)]


def to_square_tensor(image: Image.Image, size_pixels: int) -> Tensor:
    """Resize an RGB picture to a square without keeping its aspect: `(3, size_pixels, size_pixels)` uint8.

    Source: the SigLIP preprocessing of the published model: bicubic, antialiased, on uint8 RGB.
    """
    if image.size != (size_pixels, size_pixels):
        image = image.resize((size_pixels, size_pixels), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())  # (3, size, size)


@contextmanager
def _open_image(data: bytes, name: str) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=["JPEG", "PNG", "WEBP", "BMP"]) as image:
                _check_size(image.width, image.height, name)
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels: shrink it") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} ({len(data)} bytes) is no JPEG, PNG, WEBP or BMP, or its header is damaged"
        ) from error
    except ImageError:  # is a ValueError too
        raise
    except _DAMAGE as error:
        raise ImageError(f"{name} ({len(data)} bytes) is damaged or cut off: {error}") from error


def _check_size(width: int, height: int, name: str) -> None:
    """Refuse by the header, before anything is unpacked."""
    size = f"{name} has {width} x {height} pixels"
    if width < 1 or height < 1:
        raise ImageError(f"{size}: a picture has at least one")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{size}, more than {MAX_PIXELS:,}: shrink it")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"{size}, longer than {MAX_ASPECT}:1, which leaves it no line of its own among the tokens: cut it"
        )
