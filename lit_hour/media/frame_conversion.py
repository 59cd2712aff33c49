"""Convert decoded frames to resized RGB tensors (`FrameConverter`)."""

from __future__ import annotations

import threading
from pathlib import Path

import av
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image
from torch import Tensor

from lit_hour.errors import VideoError
from lit_hour.media.transforms import resize_image, rotate_image


class _Buffers(threading.local):
    """The conversion context and the full-size image of one thread.

    New memory for each frame costs more than the color conversion: the system clears its pages.
    """

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()
        self.image = Image.new("RGB", (1, 1))


class FrameConverter:
    """Makes frames upright RGB tensors of one size; may be called in several threads."""

    def __init__(self, path: Path, image_size: int) -> None:
        """Create a converter for the frames of one file.

        Args:
            path: of the file, for error messages.
            image_size: side in pixels of the square that each frame is resized to.
        """
        self._path, self._image_size = path, image_size
        self._buffers = _Buffers()

    def __call__(self, frame: VideoFrame) -> Tensor:
        """Return a frame upright and resized: `(3, image_size, image_size)` uint8.

        Raises:
            VideoError: the pixel format cannot be converted to RGB.
        """
        try:  # one thread, because decoders already use all CPUs
            rgb = self._buffers.reformatter.reformat(frame, format="rgb24", threads=1)
        except av.FFmpegError as error:
            raise VideoError(
                f"{self._path} has frames of the pixel format {frame.format.name}, which cannot be"
                " converted to RGB. Convert the video."
            ) from error
        image, plane = self._buffers.image, rgb.planes[0]
        if image.size != (frame.width, frame.height):
            image = self._buffers.image = Image.new("RGB", (frame.width, frame.height))
        image.frombytes(memoryview(plane), "raw", "RGB", plane.line_size, 1)
        if frame.rotation:
            image = rotate_image(image, frame.rotation)
        return resize_image(image, self._image_size)  # (3, size, size)
