"""The duration of a video in, the moments at which to look at it out.

A video file and the settings in, the frames that they take of it out: a chunk at a time, or all at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice, takewhile
from pathlib import Path

import torch

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.video_probe import VideoInfo, probe
from lit_hour.media.video_reader import read_frames
from lit_hour.types import Frames


def sample_timestamps(
    duration_seconds: float, frames_per_second: float, min_frames: int, max_frames: int
) -> list[float]:
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
        raise VideoError(
            f"a video cannot last {duration_seconds} seconds: its duration has to be positive and finite"
        )
    at_rate = takewhile(
        lambda seconds: seconds < duration_seconds, (index / frames_per_second for index in count())
    )
    timestamps = list(islice(at_rate, max_frames + 1))  # one too many is enough to know
    num_frames = min(max(len(timestamps), min_frames), max_frames)
    if num_frames == len(timestamps):
        return timestamps
    return [index * duration_seconds / num_frames for index in range(num_frames)]


class SampledVideo:
    """A video of which frames are taken by the settings, a chunk at a time, so that memory does not grow with its length.

    Attributes:
        timestamps: of the frames, in seconds.
        duration_seconds: once the chunks were read, that of the part that could be read of a damaged video that is used.
    """

    def __init__(self, video: str | Path | VideoInfo, settings: VideoConfig) -> None:
        """Read the header.

        Raises:
            VideoError: as `probe`.
        """
        self._settings = settings
        self._info = video if isinstance(video, VideoInfo) else probe(video)
        self.duration_seconds = self._info.duration_seconds
        rate, fewest, most = settings.fps, settings.min_frames, settings.max_frames
        self.timestamps = sample_timestamps(self.duration_seconds, rate, fewest, most)

    def chunks(self, chunk_frames: int = 64) -> Iterator[Frames]:
        """The frames in order, as `read_frames` gives them.

        Raises:
            VideoError: as `read_frames`.
        """
        size, on_damage, key_frames_only = (
            self._settings.image_size,
            self._settings.on_decode_error,
            self._settings.keyframes_only,
        )
        reading = read_frames(
            self._info, self.timestamps, size, on_damage, chunk_frames, key_frames_only
        )
        self.duration_seconds = yield from reading


def load_video(path: str | Path, settings: VideoConfig) -> tuple[Frames, float]:
    """All sampled frames of a video in one tensor, and its duration in seconds.

    Returns:
        Images `(frames, 3, size_pixels, size_pixels)` uint8 with timestamps `(frames,)`, and the duration: of the part
        that could be read when the file is damaged and used all the same.

    Raises:
        VideoError: as `read_frames`.
    """
    video = SampledVideo(path, settings)
    size = settings.image_size
    images = torch.empty(
        (len(video.timestamps), 3, size, size), dtype=torch.uint8
    )  # (frames, 3, size, size)
    num_read = 0
    for frames in video.chunks():
        images[num_read : num_read + len(frames)] = frames.images
        num_read += len(frames)
    seconds = torch.tensor(video.timestamps[:num_read], dtype=torch.float32)  # (frames,)
    if num_read == len(video.timestamps):
        return Frames(images, seconds), video.duration_seconds
    return Frames(
        images[:num_read].clone(), seconds
    ), video.duration_seconds  # a view would keep the whole alive
