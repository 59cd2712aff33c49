"""Convert decoded frames to resized RGB tensors (`FrameConverter`)."""

from __future__ import annotations

import threading
from pathlib import Path

import av
from av.video.frame import VideoFrame
from torch import Tensor

from lit_hour.errors import VideoError
from lit_hour.media.orientation import find_transpose
from lit_hour.media.pil_images import RgbConverter
from lit_hour.media.transforms import resize_image


class _PerThread(threading.local):
    """The converter of one thread."""

    def __init__(self) -> None:
        self.to_rgb = RgbConverter()


class FrameConverter:
    """Makes frames upright RGB tensors of one size; may be called in several threads."""

    def __init__(self, path: str | Path, image_size: int) -> None:
        """Create a converter for the frames of one file.

        Args:
            path: of the file, for error messages.
            image_size: side in pixels of the square that each frame is resized to.
        """
        self._path, self._image_size = path, image_size
        self._per_thread = _PerThread()

    def __call__(self, frame: VideoFrame) -> Tensor:
        """Return a frame upright and resized: `(3, image_size, image_size)` uint8.

        Raises:
            VideoError: the pixel format cannot be converted to RGB.
        """
        try:
            image = self._per_thread.to_rgb(frame)
        except av.FFmpegError as error:
            raise VideoError(
                f"{self._path} has frames of the pixel format {frame.format.name}, which cannot be"
                " converted to RGB. Convert the video."
            ) from error
        transpose = find_transpose(frame)
        if transpose is not None:
            image = image.transpose(transpose)
        return resize_image(image, self._image_size)  # (3, size, size)
