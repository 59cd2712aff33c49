"""Resize images, and encode and decode JPEG.

PIL does all of it, because the published preprocessing is PIL's bicubic resize with antialiasing.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lit_hour.errors import VideoError
from lit_hour.media.pil_images import encode_pil_jpeg, resize_to_square

# A stored frame is far smaller; a decompression bomb of a kilobyte can unpack to gigabytes.
MAX_JPEG_PIXELS = 64_000_000


def resize_image(image: Image.Image, image_size: int, target: Tensor | None = None) -> Tensor:
    """Convert an image of any mode to RGB and resize it to a square, ignoring its aspect ratio.

    Args:
        image: any PIL image.
        image_size: side of the square in pixels.
        target: tensor to write to, `(3, image_size, image_size)` uint8; allocated if None.

    Returns:
        `(3, image_size, image_size)` uint8.

    Source: the SigLIP preprocessing of the published model: bicubic, antialiased, on uint8 RGB.
    """
    rgb = resize_to_square(image, image_size)
    if target is None:
        target = torch.empty(3, image_size, image_size, dtype=torch.uint8)  # (3, size, size)
    for plane, band in zip(target, "RGB", strict=True):  # a transpose of all bytes is slower
        plane.view(-1).numpy()[:] = np.frombuffer(rgb.tobytes("raw", band), np.uint8)
    return target


def encode_jpeg(image: Tensor, quality: int) -> bytes:
    """Encode an image as JPEG.

    Args:
        image: `(3, height, width)` uint8 RGB.
        quality: 1 to 100.
    """
    pixels = image.permute(1, 2, 0).contiguous().numpy()  # (height, width, 3)
    return encode_pil_jpeg(Image.fromarray(pixels), quality)


def decode_jpeg(data: bytes, image_size: int, name: str, target: Tensor | None = None) -> Tensor:
    """Decode a JPEG file, and resize it unless it has the right size.

    Args:
        data: content of the file.
        image_size: side of the square in pixels.
        name: where the data comes from, for error messages.
        target: tensor to write to, `(3, image_size, image_size)` uint8; allocated if None.

    Returns:
        `(3, image_size, image_size)` uint8.

    Raises:
        VideoError: the data is not a complete JPEG, or has more than `MAX_JPEG_PIXELS`.
    """
    try:
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            if image.width * image.height > MAX_JPEG_PIXELS:
                raise VideoError(
                    f"{name} has {image.width} x {image.height} pixels,"
                    f" more than {MAX_JPEG_PIXELS:,}."
                )
            return resize_image(image, image_size, target)  # (3, size, size)
    except Image.DecompressionBombError as error:
        raise VideoError(f"{name} has more than {MAX_JPEG_PIXELS:,} pixels: {error}.") from error
    except OSError as error:  # PIL raises it for unknown, damaged and truncated data
        reason = "it has no JPEG header" if isinstance(error, UnidentifiedImageError) else error
        raise VideoError(f"{name} is not a valid JPEG ({len(data)} bytes): {reason}.") from error
