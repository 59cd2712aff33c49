"""The times at which a video is sampled. This module must not import torch."""

from __future__ import annotations

import math
from itertools import count, islice, takewhile

from lit_hour.errors import VideoError


def sample_timestamps(
    duration_seconds: float, fps: float, min_frames: int, max_frames: int
) -> list[float]:
    """Return evenly spaced times: the first one at 0, all before the end.

    A video too short or too long for the sampling rate gets the starts of `min_frames` or
    `max_frames` equal segments instead.

    Args:
        duration_seconds: of the video.
        fps: sampling rate in frames per second.
        min_frames: lower limit of the number of frames.
        max_frames: upper limit of the number of frames; wins over `min_frames`.

    Returns:
        Seconds from the first frame, in order.

    Raises:
        VideoError: the duration is not a positive, finite number.

    Source: Hour-LLaVA (arXiv:2506.05332), one frame per second.
    """
    if not math.isfinite(duration_seconds) or duration_seconds <= 0:
        raise VideoError(
            f"The duration of a video must be positive and finite, not {duration_seconds} seconds."
        )
    at_rate = takewhile(lambda seconds: seconds < duration_seconds, (i / fps for i in count()))
    timestamps = list(islice(at_rate, max_frames + 1))  # one too many shows that there are more
    num_frames = min(max(len(timestamps), min_frames), max_frames)
    if num_frames == len(timestamps):
        return timestamps
    return [index * duration_seconds / num_frames for index in range(num_frames)]


def continued_timestamps(start_seconds: float, duration_seconds: float, fps: float) -> list[float]:
    """Return the times at which a part that continues a video is sampled.

    They are the multiples of `1 / fps` in the whole video, so that a video in parts gets the frames
    of the video in one piece.

    Args:
        start_seconds: duration of the video before the part.
        duration_seconds: of the part.
        fps: sampling rate in frames per second.

    Returns:
        Seconds from the start of the part, in order.
    """
    first = math.ceil(start_seconds * fps)
    while first and (first - 1) / fps >= start_seconds:  # the product may be rounded
        first -= 1
    after = (max(number / fps - start_seconds, 0.0) for number in count(first))
    return list(takewhile(lambda seconds: seconds < duration_seconds, after))


def count_timestamps(duration_seconds: float, fps: float, min_frames: int, max_frames: int) -> int:
    """Return the length of `sample_timestamps`, without making the list."""
    if duration_seconds * fps > max_frames + 1:
        return max_frames
    num_at_rate = math.ceil(duration_seconds * fps)
    while num_at_rate / fps < duration_seconds:  # the product may be rounded
        num_at_rate += 1
    while num_at_rate and (num_at_rate - 1) / fps >= duration_seconds:
        num_at_rate -= 1
    return min(max(num_at_rate, min_frames), max_frames)
