"""The memory of a live video: grows with the video up to a limit, and is thinned beyond it.

Up to the limit the memory equals encoding the video in one piece, bit for bit. When it is full,
`thinned_indices` says which frames stay; it depends on their times alone, so the result does not
depend on how the video was cut into pieces. The tokens of frames that stay are never computed
again. Entry points: `LiveMemory` and `extend_within`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import torch

from lit_hour.errors import ConfigError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory, VideoMemoryBuilder
from lit_hour.types import Frames

MIN_LIMIT_FRAMES = 4  # a quarter is one frame
_ROUNDING = 1e-3  # share of a sampling interval; times are float32


class LiveMemory:
    """The memory of a video to which frames are appended.

    Attributes:
        memory: of the frames so far, which later ones do not change; None before the first frame.
        num_read: frames that were appended, including those that were dropped.
    """

    def __init__(self, predictor: VideoPredictor, source: str, max_frames: int) -> None:
        """Create an empty memory.

        Args:
            predictor: encodes the frames.
            source: name of the video, for messages.
            max_frames: limit on the frames of the memory.

        Raises:
            ConfigError: see `check_limit`.
        """
        check_limit(max_frames, predictor.config.video.max_frames)
        self.memory: VideoMemory | None = None
        self.num_read = 0
        self._predictor, self._source, self._max_frames = predictor, source, max_frames

    def append(self, frames: Frames, duration_seconds: float) -> None:
        """Append the next frames of a video that lasts `duration_seconds` with them.

        Raises:
            VideoError: the times do not follow those before.
        """
        memory, rest = self.memory, frames
        if memory is None:
            first, rest = _split(frames, self._max_frames)
            memory = self._predictor.encode_visual(first, duration_seconds, self._source)
        self.memory = extend_within(
            self._predictor, memory, rest, duration_seconds, self._max_frames
        )
        self.num_read += len(frames)

    def set_duration(self, duration_seconds: float) -> None:
        """Set the duration of the video when it ends after its last sampled frame."""
        if self.memory is not None:
            self.memory = with_duration(self._predictor, self.memory, duration_seconds)


def check_limit(max_frames: int, max_video_frames: int) -> None:
    """Check a limit on the frames of a memory.

    Raises:
        ConfigError: it is too small, or above `video.max_frames`.
    """
    if not MIN_LIMIT_FRAMES <= max_frames <= max_video_frames:
        raise ConfigError(
            f"The limit of {max_frames} frames in memory is out of range. Give"
            f" {MIN_LIMIT_FRAMES} to video.max_frames={max_video_frames}."
        )


def extend_within(
    predictor: VideoPredictor,
    memory: VideoMemory,
    frames: Frames,
    duration_seconds: float,
    max_frames: int,
) -> VideoMemory:
    """Append frames to the memory of a video, and thin it whenever it is full.

    `memory` itself is not changed.

    Args:
        predictor: that encoded it.
        memory: of a video.
        frames: with times counted from the beginning of the video.
        duration_seconds: of the video, including what is appended.
        max_frames: limit on the frames of the result.

    Raises:
        QuestionError, VideoError: see `VideoPredictor.extend`.
    """
    while len(frames):
        if memory.num_frames >= max_frames:
            memory = _thin(predictor, memory, max_frames)
        piece, frames = _split(frames, max_frames - memory.num_frames)
        # a time is a float32, which may be rounded up to the end
        end_seconds = math.nextafter(float(piece.timestamps[-1]), math.inf)
        memory = predictor.extend(memory, piece, max(end_seconds, duration_seconds))
    return with_duration(predictor, memory, duration_seconds)


def with_duration(
    predictor: VideoPredictor, memory: VideoMemory, duration_seconds: float
) -> VideoMemory:
    """Return the memory of the same frames for another duration of the video."""
    note = predictor.processor.describe_video(
        duration_seconds, memory.timestamps_seconds, memory.subtitles
    )
    return replace(memory, duration_seconds=duration_seconds, note=note)


def thinned_indices(timestamps: Sequence[float], max_frames: int, fps: float) -> list[int]:
    """Return which frames of a full memory stay.

    The newest half of `max_frames` stays. Of the older frames every second one is dropped, then
    every second one of the rest, and so on, until at most a quarter of `max_frames` stays: the
    first frame in each interval of 2, 4, 8 ... sampling intervals from the start of the video. So
    at least a quarter of the memory becomes free, and older frames are evenly spread.

    Args:
        timestamps: of the frames in seconds, in order.
        max_frames: limit of the memory.
        fps: sampling rate of the video.
    """
    num_older = len(timestamps) - max_frames // 2
    for level in count(1):
        first_of = {}
        for index in range(num_older - 1, -1, -1):
            first_of[int((timestamps[index] * fps + _ROUNDING) // 2**level)] = index
        if len(first_of) <= max_frames // 4:
            return [*sorted(first_of.values()), *range(num_older, len(timestamps))]
    raise AssertionError("unreachable")


@torch.inference_mode()
def _thin(predictor: VideoPredictor, memory: VideoMemory, max_frames: int) -> VideoMemory:
    """Return the memory of the frames that stay, with their tokens as they were computed."""
    assert memory.stream is not None
    fps = predictor.config.video.fps
    kept = thinned_indices(memory.timestamps_seconds, max_frames, fps)
    tokens, timestamps = memory.stream.encoded(
        memory.num_frames
    )  # (frames, tokens, dim), (frames,)
    builder = VideoMemoryBuilder(predictor.model, predictor.processor, max_frames)
    builder.append_encoded(tokens[kept], timestamps[kept])
    thinned = builder.finalize(memory.duration_seconds, memory.source, memory.subtitles)
    return replace(thinned, seconds=memory.seconds, thumbnails=memory.thumbnails)


def _split(frames: Frames, num_first: int) -> tuple[Frames, Frames]:
    """Return the first frames, and the rest."""
    images, timestamps = frames.images, frames.timestamps
    first = Frames(images[:num_first], timestamps[:num_first])
    return first, Frames(images[num_first:], timestamps[num_first:])
