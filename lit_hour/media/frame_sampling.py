"""Sample frames of a video: a chunk at a time (`SampledVideo`) or all at once (`load_video`)."""

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


class SampledVideo:
    """The sampled frames of a video, read in chunks, so that memory does not grow with its length.

    Attributes:
        timestamps: of the frames, in seconds.
        duration_seconds: of the video. For a damaged video that is used all the same, the duration
            of the readable part, once the chunks have been read.
    """

    def __init__(self, video: str | Path | VideoInfo, config: VideoConfig) -> None:
        """Read the header, unless `video` is the result of `probe`.

        Raises:
            VideoError: see `probe`.
        """
        self._config = config
        self._info = video if isinstance(video, VideoInfo) else probe(video)
        self.duration_seconds = self._info.duration_seconds
        self.timestamps = sample_timestamps(
            self.duration_seconds, config.fps, config.min_frames, config.max_frames
        )

    def chunks(self, chunk_frames: int = 64) -> Iterator[Frames]:
        """Yield the frames in order, see `read_frames`.

        Raises:
            VideoError: see `read_frames`.
        """
        self.duration_seconds = yield from read_frames(
            self._info,
            self.timestamps,
            self._config.image_size,
            self._config.on_decode_error,
            chunk_frames,
            self._config.keyframes_only,
        )


def load_video(path: str | Path, config: VideoConfig) -> tuple[Frames, float]:
    """Return all sampled frames of a video in one tensor, and its duration in seconds.

    Returns:
        Images `(frames, 3, image_size, image_size)` uint8 with timestamps `(frames,)`, and the
        duration: of the readable part if the file is damaged and used all the same.

    Raises:
        VideoError: see `read_frames`.
    """
    video, size = SampledVideo(path, config), config.image_size
    num_frames, num_read = len(video.timestamps), 0
    images = torch.empty((num_frames, 3, size, size), dtype=torch.uint8)  # (frames, 3, size, size)
    for frames in video.chunks():
        images[num_read : num_read + len(frames)] = frames.images
        num_read += len(frames)
    if num_read < num_frames:
        images = images[:num_read].clone()  # a view would keep the whole buffer alive
    seconds = torch.tensor(video.timestamps[:num_read], dtype=torch.float32)  # (frames,)
    return Frames(images, seconds), video.duration_seconds
