"""Convert a frame to a PIL image, resize it and encode it as JPEG. It must not import torch."""

from __future__ import annotations

from io import BytesIO

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image


class RgbConverter:
    """Converts decoded frames to PIL images, in the memory of the image before.

    New memory for each frame costs more than the color conversion, since the system clears its
    pages, and a new converter more than a small frame. For one thread.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._image = Image.new("RGB", (1, 1))

    def __call__(self, frame: VideoFrame) -> Image.Image:
        """Return a frame as an RGB image, which is valid until the next call.

        Raises:
            FFmpegError: the pixel format cannot be converted to RGB.
        """
        # one thread, because decoders already use all CPUs
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        if self._image.size != (frame.width, frame.height):
            self._image = Image.new("RGB", (frame.width, frame.height))
        plane = rgb.planes[0]
        self._image.frombytes(memoryview(plane), "raw", "RGB", plane.line_size, 1)
        return self._image


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
