"""Resize a PIL image and encode it as JPEG. This module must not import torch."""

from __future__ import annotations

from io import BytesIO

from PIL import Image


def resize_to_square(image: Image.Image, image_size: int) -> Image.Image:
    """Convert an image of any mode to RGB and resize it to a square of `image_size` pixels.

    The aspect ratio is ignored. The image itself is returned if nothing has to be changed.

    Source: the SigLIP preprocessing of the published model: bicubic, antialiased, on uint8 RGB.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # converting always copies
    if rgb.size != (image_size, image_size):
        rgb = rgb.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return rgb


def encode_pil_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode an RGB image as JPEG of a quality from 1 to 100."""
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
