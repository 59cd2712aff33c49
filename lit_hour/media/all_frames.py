"""Read images by decoding every frame of a video: the way that all others must equal.

Faster ways fall back to `images_of_all_frames` where a file is damaged, or is not H.264.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

from av.video.frame import VideoFrame
from torch import Tensor

from lit_hour.errors import VideoError
from lit_hour.media.frame_conversion import FrameConverter
from lit_hour.media.frame_decoding import Damage, decode_frames
from lit_hour.media.packet_filter import TIME_TOLERANCE_SECONDS
from lit_hour.media.video_probe import MAX_MISSING_SECONDS, VideoInfo, open_video

OnDecodeError = Literal["raise", "truncate"]


class DamagedVideoWarning(UserWarning):
    """A video was used although it could not be read to its end."""


@dataclass
class ReadableRange:
    """The part of a video that could be read.

    Attributes:
        last_start_seconds: start of the last frame that was decoded.
        end_seconds: its end.
        damage: packets that could not be decoded.
    """

    last_start_seconds: float = 0.0
    end_seconds: float = 0.0
    damage: Damage = field(default_factory=Damage)


def images_of_all_frames(
    info: VideoInfo,
    timestamps: Sequence[float],
    num_read: int,
    image_size: int,
    on_decode_error: OnDecodeError,
) -> Iterator[Tensor]:
    """Yield the same images as `_displayed_images` by decoding every frame.

    From damage on, all frames are decoded again by one thread: with several, a packet that cannot
    be decoded costs other frames, too.

    Args:
        info: the result of `probe`.
        timestamps: seconds from the first frame, in order.
        num_read: number of the first timestamps that are passed over.
        image_size: side in pixels of the square that each frame is resized to.
        on_decode_error: see `read_frames`.
    """
    convert, num_times = FrameConverter(info.path, image_size), len(timestamps)
    for is_threaded in (True, False):
        readable = ReadableRange()
        stops_at_damage = is_threaded or on_decode_error == "raise"
        with closing(_iterate_frames(info, readable, is_threaded, stops_at_damage)) as frames:
            while num_read < num_times and (shown := next(frames, None)) is not None:
                frame, end_seconds = shown
                num_shown = bisect_left(timestamps, end_seconds - TIME_TOLERANCE_SECONDS)
                if num_shown > num_read:
                    yield from [convert(frame)] * (num_shown - num_read)  # (3, size, size)
                    num_read = num_shown
        if num_read == num_times and stops_at_damage:
            return
    if on_decode_error == "raise":
        raise VideoError(
            f"{_describe_damage(info, readable)}. Give an intact file, or set"
            " video.on_decode_error=truncate to use what can be read."
        )
    if num_read == num_times:
        fault = f"{readable.damage.num_packets} of its packets cannot be decoded"
        message = f"{info.path} is damaged: {fault}. The frame before each stays on screen."
    else:
        missing = f"{num_times - num_read} of {num_times} frames are missing"
        message = f"{_describe_damage(info, readable)}. {missing}."
    warnings.warn(message, DamagedVideoWarning, stacklevel=3)


def _describe_damage(info: VideoInfo, readable: ReadableRange) -> str:
    return (
        f"{info.path} is damaged or cut short: it could be read up to {readable.end_seconds:.1f} s"
        f" of {info.duration_seconds:.1f} s (last frame at {readable.last_start_seconds:.1f} s)"
    )


def _iterate_frames(
    info: VideoInfo, readable: ReadableRange, is_threaded: bool, stops_at_damage: bool
) -> Generator[tuple[VideoFrame, float], None, None]:
    """Decode every frame and yield it with the time at which it leaves the screen, in seconds.

    Args:
        info: the result of `probe`.
        readable: updated while frames are decoded; complete when the iterator ends.
        is_threaded: decode in several threads.
        stops_at_damage: end at the first packet that cannot be decoded, instead of going on.
    """
    shown: VideoFrame | None = None
    interval_seconds, damage = 0.0, readable.damage
    with open_video(info.path, info.stream_index) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 0 if is_threaded else 1
        for frame, ticks in decode_frames(container, stream, info.repair, damage):
            if stops_at_damage and damage.num_packets:
                break
            start_seconds = info.seconds(ticks)
            if shown is not None:
                yield shown, start_seconds
                interval_seconds = start_seconds - readable.last_start_seconds
            shown, readable.last_start_seconds = frame, start_seconds
    if shown is None:
        raise VideoError(f"No frame of {info.path} can be decoded. Give an intact video file.")
    duration_seconds = float((shown.duration or 0) * info.time_base) or interval_seconds
    end_seconds = readable.end_seconds = readable.last_start_seconds + duration_seconds
    is_at_end = damage.is_at_end or (stops_at_damage and damage.num_packets > 0)
    missing_seconds = info.duration_seconds - end_seconds
    if is_at_end or missing_seconds > max(MAX_MISSING_SECONDS, 2 * duration_seconds):
        yield shown, end_seconds
    else:  # the last frame stays on screen
        yield shown, math.inf
