"""Read the resized frames of a video that are on screen at given times: `read_frames`.

The file is read in one pass. Only the wanted frames are converted, and none is kept at full size,
so memory does not grow with the video. Times are presentation times counted from the first frame,
because index / fps is wrong for a variable frame rate.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import torch
from av.video.frame import VideoFrame
from PIL import Image
from torch import Tensor

from lit_hour.errors import VideoError
from lit_hour.media.frame_iterator import (
    ReadableRange,
    SelectiveFrameIterator,
    iterate_frames,
    supports_selective_decoding,
)
from lit_hour.media.packet_filter import TIME_TOLERANCE_SECONDS
from lit_hour.media.transforms import resize_image, rotate_image
from lit_hour.media.video_probe import VideoInfo, probe
from lit_hour.types import Frames

OnDecodeError = Literal["raise", "truncate"]


class DamagedVideoWarning(UserWarning):
    """A video was used although it could not be read to its end."""


class KeyframeWarning(UserWarning):
    """Keyframes were returned in place of the frames on screen."""


def read_frames(
    video: str | Path | VideoInfo,
    timestamps: Sequence[float],
    image_size: int,
    on_decode_error: OnDecodeError,
    chunk_frames: int = 64,
    keyframes_only: bool = False,
) -> Generator[Frames, None, float]:
    """Yield the frames on screen at the given times, as a player shows them, in chunks.

    For H.264, only the packets that these frames need are decoded, so damage between them is not
    noticed. Threads decode and resize a little ahead, as many as this process has CPUs; they end
    with the generator.

    Args:
        video: path, or the result of `probe`.
        timestamps: seconds from the first frame, in order; several may fall on one frame.
        image_size: side in pixels of the square that each frame is resized to.
        on_decode_error: for a file that stops decoding before the last timestamp: "raise" raises
            `VideoError` there, "truncate" ends the chunks there with a `DamagedVideoWarning`.
        chunk_frames: frames in a chunk; the last one may have fewer.
        keyframes_only: return the last keyframe before each time instead, at a fraction of the
            cost. The error in time is reported with a `KeyframeWarning`. If the encoder put
            keyframes at cuts, the keyframe begins the scene on screen. Ignored for containers
            without presentation times (avi).

    Yields:
        Images `(frames, 3, image_size, image_size)` uint8 with timestamps `(frames,)` float32.

    Returns:
        Seconds of the video that could be read: its duration, or where the readable part ends.

    Raises:
        VideoError: the file cannot be read (see `probe`) or is damaged, or a timestamp is outside
            of it or out of order.
    """
    info = video if isinstance(video, VideoInfo) else probe(video)
    inside = all(0 <= seconds < info.duration_seconds for seconds in timestamps)
    if not inside or list(timestamps) != sorted(timestamps):
        raise VideoError(
            f"Timestamps in {info.path} must be in order, from 0 to less than"
            f" {info.duration_seconds} s."
        )
    readable = ReadableRange()
    if keyframes_only and supports_selective_decoding(info, keyframes_only):
        images = _keyframe_images(info, timestamps, image_size, readable)
    else:
        images = _displayed_images(info, timestamps, image_size, readable)
    num_read = 0
    while chunk := list(islice(images, chunk_frames)):
        seconds = timestamps[num_read : num_read + len(chunk)]
        yield Frames(
            torch.stack(chunk),  # (frames, 3, size, size)
            torch.tensor(seconds, dtype=torch.float32),  # (frames,)
        )
        num_read += len(chunk)
    if num_read == len(timestamps):
        return info.duration_seconds
    _report_damage(info, readable, num_read, len(timestamps), on_decode_error)
    return readable.end_seconds


def _report_damage(
    info: VideoInfo,
    readable: ReadableRange,
    num_read: int,
    num_frames: int,
    on_decode_error: OnDecodeError,
) -> None:
    """Raise or warn, because the video ended before the last timestamp."""
    damage = (
        f"{info.path} is damaged or cut short: it could be read up to {readable.end_seconds:.1f} s"
        f" of {info.duration_seconds:.1f} s (last frame at {readable.last_start_seconds:.1f} s)"
    )
    if on_decode_error == "raise":
        raise VideoError(
            f"{damage}. Give an intact file, or set video.on_decode_error=truncate to use the"
            " readable part."
        )
    missing = f"{num_frames - num_read} of {num_frames} frames are missing"
    warnings.warn(f"{damage}. {missing}.", DamagedVideoWarning, stacklevel=3)


def _displayed_images(
    info: VideoInfo, timestamps: Sequence[float], image_size: int, readable: ReadableRange
) -> Iterator[Tensor]:
    """Yield an image `(3, image_size, image_size)` per timestamp, as far as the video is readable.

    Selective decoding comes first. Where it ends early, every frame is decoded instead.
    """
    num_read = 0
    if supports_selective_decoding(info, keyframes_only=False):
        convert = partial(_convert_frame, info.path, image_size)
        for image, num_times in SelectiveFrameIterator(info, timestamps, False, convert):
            yield from [image] * num_times
            num_read += num_times
    if num_read < len(timestamps):
        yield from _images_of_all_frames(info, timestamps[num_read:], image_size, readable)


def _images_of_all_frames(
    info: VideoInfo, timestamps: Sequence[float], image_size: int, readable: ReadableRange
) -> Iterator[Tensor]:
    """Yield the same images as `_displayed_images` by decoding every frame."""
    num_read = 0
    for frame, end_seconds in iterate_frames(info, readable):
        image: Tensor | None = None
        while timestamps[num_read] < end_seconds - TIME_TOLERANCE_SECONDS:
            if image is None:
                image = _convert_frame(info.path, image_size, frame)  # (3, size, size)
            yield image
            num_read += 1
            if num_read == len(timestamps):
                return


def _keyframe_images(
    info: VideoInfo, timestamps: Sequence[float], image_size: int, readable: ReadableRange
) -> Iterator[Tensor]:
    """Yield the last keyframe before each timestamp, `(3, image_size, image_size)`."""
    num_read = 0
    convert = partial(_convert_frame, info.path, image_size)
    keyframes = SelectiveFrameIterator(info, timestamps, True, convert)
    for image, num_times in keyframes:
        yield from [image] * num_times
        num_read += num_times
        readable.last_start_seconds = keyframes.frame_start_seconds[num_read - 1]
    if num_read < len(timestamps):
        readable.end_seconds = timestamps[num_read]
    starts = keyframes.frame_start_seconds
    early_seconds = [
        abs(seconds - start) for seconds, start in zip(timestamps[:num_read], starts, strict=False)
    ]
    if early_seconds:
        warnings.warn(
            f"{info.path} was read by its keyframes: frames are"
            f" {sum(early_seconds) / num_read:.2f} s too early on average and"
            f" {max(early_seconds):.2f} s at most.",
            KeyframeWarning,
            stacklevel=2,
        )


def _convert_frame(path: Path, image_size: int, frame: VideoFrame) -> Tensor:
    """Return a frame upright and resized: `(3, image_size, image_size)` uint8."""
    try:
        plane = frame.reformat(format="rgb24").planes[0]
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} has frames of the pixel format {frame.format.name}, which cannot be converted"
            " to RGB. Convert the video."
        ) from error
    # frame.to_image() copies row by row, which costs more than the conversion.
    size = (frame.width, frame.height)
    image = Image.frombuffer("RGB", size, bytes(plane), "raw", "RGB", plane.line_size, 1)
    if frame.rotation:
        image = rotate_image(image, frame.rotation)
    return resize_image(image, image_size)  # (3, size, size)
