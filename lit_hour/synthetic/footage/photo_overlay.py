"""Draw a photograph over a frame, with slow pan and zoom, cut or faded: `PhotoOverlay`."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

from PIL import Image

from lit_hour.media.image_reader import read_image
from lit_hour.synthetic.footage.footage_story import PhotoMotion

FADE_SECONDS = 0.5
FIRST_OPACITY = 0.2  # of a faded photograph in its first frame
MAX_SIDE_PIXELS = 1600  # larger photographs are reduced once, since no frame shows more


class PhotoOverlay:
    """A photograph that is drawn over frames of one size."""

    def __init__(self, path: Path, motion: PhotoMotion, duration_seconds: float) -> None:
        """Decode the photograph.

        Raises:
            ImageError: it cannot be decoded.
            OSError: it cannot be read.
        """
        self._photo = read_image(path.read_bytes(), str(path))
        self._photo.thumbnail((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS))
        self._motion, self._duration_seconds = motion, duration_seconds

    def draw(self, frame: Image.Image, seconds: float) -> Image.Image:
        """Return a copy of a frame with the photograph over it.

        Args:
            frame: RGB.
            seconds: since the photograph appeared.
        """
        motion, progress = self._motion, seconds / self._duration_seconds
        scale = sqrt(motion.area)
        region = (round(frame.width * scale), round(frame.height * scale))
        fit = min(region[0] / self._photo.width, region[1] / self._photo.height)
        size = (
            max(1, round(self._photo.width * fit)),
            max(1, round(self._photo.height * fit)),
        )
        shown = self._photo.resize(size, Image.Resampling.BILINEAR, self._shown_box(progress))
        layer = frame.copy() if motion.area < 1 else Image.new("RGB", frame.size)
        corner = [
            round(share * (side - part))
            for share, side, part in zip(
                motion.position if motion.area < 1 else (0.5, 0.5), frame.size, size, strict=True
            )
        ]
        layer.paste(shown, (corner[0], corner[1]))
        opacity = self._opacity(seconds)
        return layer if opacity == 1 else Image.blend(frame, layer, opacity)

    def _shown_box(self, progress: float) -> tuple[float, float, float, float]:
        """Return the shown part of the photograph: left, top, right and bottom in its pixels."""
        motion = self._motion
        crop = _interpolate(*motion.crops, progress)
        width, height = crop * self._photo.width, crop * self._photo.height
        (left_start, top_start), (left_end, top_end) = motion.pans
        left = _interpolate(left_start, left_end, progress) * (self._photo.width - width)
        top = _interpolate(top_start, top_end, progress) * (self._photo.height - height)
        return left, top, left + width, top + height

    def _opacity(self, seconds: float) -> float:
        if not self._motion.is_faded:
            return 1.0
        nearest_end = min(seconds, self._duration_seconds - seconds)
        return min(1.0, FIRST_OPACITY + (1 - FIRST_OPACITY) * nearest_end / FADE_SECONDS)


def _interpolate(start: float, end: float, progress: float) -> float:
    return start + (end - start) * min(1.0, progress)
