"""A video file in, the resized frames that are on screen at given times out.

One pass; only frames that are asked for are converted, and none is kept at full size, so memory does not grow with the
video. Times are presentation times counted from the first frame: index / rate is wrong for a variable rate.
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
from lit_hour.media.frame_iterator import FrameIterator, SelectiveFrameIterator
from lit_hour.media.packet_filter import TIME_TOLERANCE_SECONDS
from lit_hour.media.transforms import resize_image, rotate_image
from lit_hour.media.video_probe import VideoInfo, probe
from lit_hour.types import Frames

OnDecodeError = Literal["raise", "truncate"]


class DamagedVideoWarning(UserWarning):
    """A video was used although it could not be read to its end."""


class KeyframeWarning(UserWarning):
    """Key frames were taken in place of the frames that are on screen."""


def read_frames(
    video: str | Path | VideoInfo,
    timestamps: Sequence[float],
    size_pixels: int,
    on_damage: OnDecodeError,
    chunk_frames: int = 64,
    key_frames_only: bool = False,
) -> Generator[Frames, None, float]:
    """The frames that are on screen at the given times, as a player shows them, in chunks.

    Of H.264, only packets that these frames need are decoded, so damage between them is not seen. Threads of its own decode
    and resize, as many as this process has CPUs, and a little ahead; they end with the generator.

    Args:
        video: its path, or what `probe` has said of it.
        timestamps: seconds from the first frame, in order; several may fall on one frame.
        size_pixels: side of the square that each frame is resized to.
        on_damage: for a file that stops decoding before the last timestamp: "raise" refuses it when that point is
            reached, "truncate" ends the chunks there with a `DamagedVideoWarning`.
        chunk_frames: frames in a chunk; the last one may have fewer.
        key_frames_only: show the last key frame before each time instead, at a fraction of the cost; the error in time is
            reported with a `KeyframeWarning`. It begins the scene on screen if the encoder put key frames at cuts.
            A container without presentation times (avi) is read as without this.

    Yields:
        Images `(frames, 3, size_pixels, size_pixels)` uint8 with their timestamps `(frames,)` float32.

    Returns:
        The seconds of the video that could be read: all of it, or up to where a damaged one ends.

    Raises:
        VideoError: the file cannot be read (see `probe`), is damaged, or a timestamp lies outside it or out of order.
    """
    info = video if isinstance(video, VideoInfo) else probe(video)
    _check_timestamps(timestamps, info)
    pick = (
        _pick_key_frames
        if key_frames_only and SelectiveFrameIterator.supports(info, key_frames_only)
        else _pick_pictures
    )
    playback = FrameIterator(info)
    is_whole = yield from _read_chunks(
        pick(playback, timestamps, size_pixels), playback, timestamps, on_damage, chunk_frames
    )
    return info.duration_seconds if is_whole else playback.end_seconds


def _read_chunks(
    pictures: Iterator[Tensor],
    playback: FrameIterator,
    timestamps: Sequence[float],
    on_damage: OnDecodeError,
    chunk_frames: int,
) -> Generator[Frames, None, bool]:
    """The chunks, and whether they are all there."""
    num_read = 0
    while chunk := list(islice(pictures, chunk_frames)):
        seconds = timestamps[num_read : num_read + len(chunk)]
        yield Frames(
            torch.stack(chunk), torch.tensor(seconds, dtype=torch.float32)
        )  # (frames, 3, size, size), (frames,)
        num_read += len(chunk)
    if num_read == len(timestamps):
        return True
    readable = (
        f"{playback.info.path} is damaged or cut short: it could be read up to {playback.end_seconds:.1f} s"
        f" of {playback.info.duration_seconds:.1f} s (last frame at {playback.last_start_seconds:.1f} s)"
    )
    if on_damage == "raise":
        raise VideoError(
            f"{readable}; give a whole file, or set video.on_decode_error=truncate to use what could be read"
        )
    missing = f"{len(timestamps) - num_read} of {len(timestamps)} frames are missing"
    warnings.warn(f"{readable}; {missing}", DamagedVideoWarning, stacklevel=3)
    return False


def _check_timestamps(timestamps: Sequence[float], info: VideoInfo) -> None:
    inside = all(0 <= seconds < info.duration_seconds for seconds in timestamps)
    if not inside or list(timestamps) != sorted(timestamps):
        raise VideoError(
            f"frames of {info.path} have to be asked for in order, from 0 to before {info.duration_seconds} s"
        )


def _pick_pictures(
    playback: FrameIterator, timestamps: Sequence[float], size_pixels: int
) -> Iterator[Tensor]:
    """One picture `(3, size_pixels, size_pixels)` for each timestamp, as far as the video can be read."""
    info, num_picked = playback.info, 0
    if SelectiveFrameIterator.supports(info, key_frames_only=False):
        for picture, num_times in SelectiveFrameIterator(
            info, timestamps, False, partial(_show, info.path, size_pixels)
        ):
            yield from [picture] * num_times
            num_picked += num_times
    if num_picked < len(timestamps):
        yield from _pick_from_all(playback, timestamps[num_picked:], size_pixels)


def _pick_from_all(
    playback: FrameIterator, timestamps: Sequence[float], size_pixels: int
) -> Iterator[Tensor]:
    """The same, with every frame decoded."""
    num_picked = 0
    for frame, leaves_seconds in playback:
        picture: Tensor | None = None
        while (
            num_picked < len(timestamps)
            and timestamps[num_picked] < leaves_seconds - TIME_TOLERANCE_SECONDS
        ):
            if picture is None:
                picture = _show(playback.info.path, size_pixels, frame)  # (3, size, size)
            yield picture
            num_picked += 1
        if num_picked == len(timestamps):
            return


def _pick_key_frames(
    playback: FrameIterator, timestamps: Sequence[float], size_pixels: int
) -> Iterator[Tensor]:
    """One picture `(3, size_pixels, size_pixels)` for each timestamp, of the last key frame before it."""
    info, num_picked = playback.info, 0
    needed = SelectiveFrameIterator(info, timestamps, True, partial(_show, info.path, size_pixels))
    for picture, num_times in needed:
        yield from [picture] * num_times
        num_picked += num_times
        playback.last_start_seconds = needed.frame_start_seconds[num_picked - 1]
    if num_picked < len(timestamps):
        playback.end_seconds = timestamps[num_picked]
    late_seconds = [
        abs(asked - shown)
        for asked, shown in zip(timestamps[:num_picked], needed.frame_start_seconds, strict=False)
    ]
    if late_seconds:
        mean_seconds = sum(late_seconds) / num_picked
        message = f"frames are {mean_seconds:.2f} s too early on average and {max(late_seconds):.2f} s at most"
        warnings.warn(
            f"{info.path} was read by its key frames: {message}", KeyframeWarning, stacklevel=2
        )


def _show(path: Path, size_pixels: int, frame: VideoFrame) -> Tensor:
    """A frame as a player shows it, resized: `(3, size_pixels, size_pixels)`."""
    try:
        plane = frame.reformat(format="rgb24").planes[0]
    except av.FFmpegError as error:
        raise VideoError(
            f"{path}: frames of the pixel format {frame.format.name} cannot be shown; convert it"
        ) from error
    size = (
        frame.width,
        frame.height,
    )  # PyAV copies row by row on its way to PIL, which costs more than the conversion
    image = Image.frombuffer("RGB", size, bytes(plane), "raw", "RGB", plane.line_size, 1)
    return resize_image(rotate_image(image, frame.rotation), size_pixels)  # (3, size, size)
