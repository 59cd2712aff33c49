"""The duration of a video in, the moments at which to look at it out."""

from __future__ import annotations

import math
from itertools import count, islice, takewhile

from lit_hour.errors import VideoError


def sample_timestamps(duration_seconds: float, frames_per_second: float, min_frames: int, max_frames: int) -> list[float]:
    """The times at which frames are taken: evenly spaced, the first one at 0, all before the end.

    A video too short or too long for the sampling rate gets `min_frames` or `max_frames` moments instead: the starts of
    that many equal segments.

    Args:
        duration_seconds: of the video.
        frames_per_second: sampling rate.
        min_frames: fewest moments.
        max_frames: most moments; wins over `min_frames`.

    Returns:
        Seconds from the first frame, in order.

    Raises:
        VideoError: the duration is not a positive, finite number.

    Source: Hour-LLaVA (arXiv:2506.05332), one frame per second.
    """
    if not math.isfinite(duration_seconds) or duration_seconds <= 0:
        raise VideoError(f"a video cannot last {duration_seconds} seconds: its duration has to be positive and finite")
    at_rate = takewhile(lambda seconds: seconds < duration_seconds, (index / frames_per_second for index in count()))
    timestamps = list(islice(at_rate, max_frames + 1))  # one too many is enough to know
    num_frames = min(max(len(timestamps), min_frames), max_frames)
    if num_frames == len(timestamps):
        return timestamps
    return [index * duration_seconds / num_frames for index in range(num_frames)]
