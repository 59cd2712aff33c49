"""Read animated WEBP files as videos; FFmpeg cannot. This module must not import torch."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import av
from PIL import Image, ImageSequence

from lit_hour.errors import VideoError

_MILLISECOND = Fraction(1, 1000)
_PIL_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of damaged files
_MIN_FRAME_MILLISECONDS = 100  # of a frame that has 10 or less, as browsers show it
MAX_PIXELS = 4_000_000_000  # of all frames together; a kilobyte can unpack to gigabytes


def is_animated_webp(path: Path) -> bool:
    """Return whether a file is an animated WEBP file, by its header.

    Source: WEBP container specification, extended file format (VP8X).
    """
    with path.open("rb") as stream:
        head = stream.read(21)
    is_extended = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21
    return is_extended and bool(head[20] & 2)


def webp_as_video(path: Path) -> BytesIO:
    """Return the frames of an animated WEBP file as a video of a lossless codec.

    Raises:
        VideoError: the file is damaged, or unpacks to too many pixels.
    """
    status = path.stat()
    return BytesIO(_convert(path, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)  # a video is opened several times
def _convert(path: Path, _mtime_ns: int, num_bytes: int) -> bytes:
    target = BytesIO()
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            num_frames = getattr(image, "n_frames", 1)
            if num_frames * image.width * image.height > MAX_PIXELS:
                raise VideoError(
                    f"{path} has {num_frames} frames of {image.width} x {image.height} pixels, more"
                    f" than {MAX_PIXELS:,} pixels in all. Convert it to mp4."
                )
            _encode(image, target)
    except VideoError:  # a ValueError, too
        raise
    except _PIL_ERRORS as error:
        raise VideoError(
            f"{path} ({num_bytes} bytes) is damaged or cut short: {error}. Download it again."
        ) from error
    return target.getvalue()


def _encode(image: Image.Image, target: BytesIO) -> None:
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=1000, time_base=_MILLISECOND)
        stream.width, stream.height, stream.pix_fmt = image.width, image.height, "bgr0"
        start = 0
        for shown in ImageSequence.Iterator(image):
            shown.load()  # reads the duration, too
            milliseconds = int(shown.info.get("duration", 0))
            if milliseconds <= 10:
                milliseconds = _MIN_FRAME_MILLISECONDS
            frame = av.VideoFrame.from_image(shown.convert("RGB"))
            frame.pts, frame.time_base, frame.duration = start, _MILLISECOND, milliseconds
            for packet in stream.encode(frame):
                packet.duration = milliseconds
                container.mux(packet)
            start += milliseconds
        container.mux(stream.encode())
