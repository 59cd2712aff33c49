"""One picture in, one picture out: rotated, resized to the model's square, or written as JPEG and read back.

PIL does all of it, because the published preprocessing is PIL's bicubic resize with antialiasing.
"""

from __future__ import annotations

from io import BytesIO

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lit_hour.errors import VideoError

MAX_JPEG_PIXELS = 64_000_000  # a stored frame is far smaller; a hostile one can be a kilobyte that unpacks to gigabytes

_COUNTERCLOCKWISE = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def rotate_image(image: Image.Image, rotation_degrees: int) -> Image.Image:
    """Turn a picture counterclockwise by the quarter turns nearest to `rotation_degrees`, which may be negative."""
    turn = round(rotation_degrees / 90) * 90 % 360
    return image.transpose(_COUNTERCLOCKWISE[turn]) if turn else image


def resize_image(image: Image.Image, size_pixels: int, target: Tensor | None = None) -> Tensor:
    """Resize a picture of any mode to a square of RGB; the aspect ratio is not kept.

    Args:
        target: where to write it, if it has a place already.

    Returns:
        `(3, size_pixels, size_pixels)` uint8.

    Source: the SigLIP preprocessing of the published model: bicubic, antialiased, on uint8 RGB.
    """
    rgb = image.convert("RGB")
    if rgb.size != (size_pixels, size_pixels):
        rgb = rgb.resize((size_pixels, size_pixels), Image.Resampling.BICUBIC)
    if target is None:
        target = torch.empty(3, size_pixels, size_pixels, dtype=torch.uint8)  # (3, size, size)
    write_planes(rgb, target)
    return target


def write_planes(image: Image.Image, target: Tensor) -> None:
    """Copy an RGB picture to `(3, height, width)` uint8, plane by plane: as bytes in a row it would be copied three times."""
    for plane, channel in zip(target, image.split(), strict=True):
        shown = Image.frombuffer("L", image.size, plane.numpy(), "raw", "L", 0, 1)
        shown.readonly = 0  # else PIL would write to a copy
        shown.paste(channel)


def encode_jpeg(image: Tensor, quality: int) -> bytes:
    """Write a picture as JPEG.

    Args:
        image: `(3, height, width)` uint8 RGB.
        quality: 1 to 100.
    """
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(
        buffer, format="JPEG", quality=quality
    )
    return buffer.getvalue()


def decode_jpeg(data: bytes, size_pixels: int, name: str, target: Tensor | None = None) -> Tensor:
    """Read a JPEG, and resize it when it has not the wanted size already.

    Args:
        data: the whole JPEG file.
        size_pixels: side of the square that comes out.
        name: where the data is from, for the error.
        target: where to write the picture, if it has a place already.

    Returns:
        `(3, size_pixels, size_pixels)` uint8.

    Raises:
        VideoError: the data is not a whole JPEG, or has more than `MAX_JPEG_PIXELS`.
    """
    try:
        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            if image.width * image.height > MAX_JPEG_PIXELS:
                raise VideoError(
                    f"{name} has {image.width} x {image.height} pixels, more than {MAX_JPEG_PIXELS:,}"
                )
            return resize_image(image, size_pixels, target)  # (3, size, size)
    except Image.DecompressionBombError as error:
        raise VideoError(f"{name} has more than {MAX_JPEG_PIXELS:,} pixels: {error}") from error
    except OSError as error:  # PIL has it for unknown, broken and truncated data alike
        reason = "it has no JPEG header" if isinstance(error, UnidentifiedImageError) else error
        raise VideoError(
            f"{name} is not a JPEG that decodes ({len(data)} bytes): {reason}"
        ) from error
