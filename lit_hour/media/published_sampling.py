"""Choose the frames of the published training, by their numbers instead of their times.

Entry point: `sample_published`. It reads the header of every packet, because only then are the
number and the times of the frames known.

Source: the training code of Hour-LLaVA (arXiv:2506.05332).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction

import av

from lit_hour.config.schema import VideoConfig
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.media.packet_times import TimeSource, read_packets
from lit_hour.media.video_probe import VideoInfo, open_video


@dataclass(frozen=True)
class FrameTable:
    """Start of every frame of a video, and its average frame rate.

    Attributes:
        ticks: start of each frame, counted from the first, in order.
        tick_seconds: length of a tick.
        frame_rate: frames per second, as the header says.
        first_seconds: time of tick 0, from the first frame of the video.
    """

    ticks: list[int]
    tick_seconds: Fraction
    frame_rate: float
    first_seconds: float = 0.0

    def start_seconds(self, frame: int) -> float:
        """Return the time from the start of the first frame to the start of another."""
        return float(self.ticks[frame] * self.tick_seconds)

    def part(self, start_seconds: float, end_seconds: float) -> FrameTable:
        """Return the frames on screen in a part of the video, with times from its start.

        The first is on screen at the start, although it may have begun before.
        """
        first = int(Fraction(start_seconds) / self.tick_seconds)
        last = math.ceil(Fraction(end_seconds) / self.tick_seconds)
        begun = bisect_right(self.ticks, first)
        inside = self.ticks[begun : bisect_left(self.ticks, last)]
        ticks = [0, *(tick - first for tick in inside)]
        return replace(self, ticks=ticks, first_seconds=start_seconds)


def sample_published(
    info: VideoInfo,
    config: VideoConfig,
    for_features: bool,
    clip_seconds: tuple[float, float] | None = None,
) -> tuple[VideoInfo, list[float], float]:
    """Choose the frames that the published training takes of a video.

    Args:
        info: the result of `probe`.
        config: `fps`, `min_frames` and `max_frames`.
        for_features: choose the frames that it takes of a video with stored features.
        clip_seconds: start and end of the part that counts as the video.

    Returns:
        `info` with a duration that includes the last frame, the starts of the frames in seconds,
        and the duration in seconds that the published prompt states.

    Raises:
        VideoError: the file cannot be opened.
    """
    table = read_frame_table(info)
    if clip_seconds is not None:
        table = table.part(*clip_seconds)
    num_frames, rate = len(table.ticks), table.frame_rate
    duration_seconds = num_frames / rate
    if for_features:
        duration_seconds = round(duration_seconds, 2)
        stored = stored_feature_indices(num_frames, rate, config.fps, config.min_frames)
        read = read_feature_indices(len(stored), duration_seconds, config.fps)
        indices = [stored[index] for index in read]
        if len(indices) > config.max_frames:
            indices = evenly_spaced_indices(num_frames, config.max_frames, "linspace")
    else:
        indices = published_frame_indices(num_frames, rate, config)
    end_seconds = table.first_seconds + table.start_seconds(-1) + 1 / rate
    info = replace(info, duration_seconds=max(info.duration_seconds, end_seconds))
    return info, list(map(table.start_seconds, indices)), duration_seconds


def published_frame_indices(num_frames: int, frame_rate: float, config: VideoConfig) -> list[int]:
    """Return the frames that `sample_published` chooses of a video file.

    Args:
        num_frames: of the file.
        frame_rate: of the file, in frames per second.
        config: `fps`, `min_frames` and `max_frames`.
    """
    indices = video_frame_indices(num_frames, frame_rate, config.fps, config.min_frames)
    if len(indices) > config.max_frames:
        return evenly_spaced_indices(num_frames, config.max_frames, "linspace")
    return indices


def video_frame_indices(
    num_frames: int, frame_rate: float, fps: float, min_frames: int
) -> list[int]:
    """Return the frames that the published training takes of a video file.

    Args:
        num_frames: of the file.
        frame_rate: of the file, in frames per second.
        fps: sampling rate in frames per second; rounded to a whole step between frames.
        min_frames: a video with fewer sampled frames gets this many, evenly spaced, or all.
    """
    step = max(round(frame_rate / fps), 1)  # the published code fails for a step of 0
    indices = list(range(0, num_frames, step))
    if len(indices) < min_frames:
        return evenly_spaced_indices(num_frames, min(num_frames, min_frames), "linspace")
    return indices


def stored_feature_indices(
    num_frames: int, frame_rate: float, fps: float, min_frames: int
) -> list[int]:
    """Return the frames with features in the published extraction; as `video_frame_indices`.

    All frames of a video with fewer than `min_frames`; the last frame is always among them.
    """
    num_stored = max(int(num_frames / frame_rate * fps), min_frames)
    return evenly_spaced_indices(num_frames, min(num_stored, num_frames), "linspace")


def read_feature_indices(num_stored: int, duration_seconds: float, fps: float) -> list[int]:
    """Return which of the stored features the published training reads: `fps` of each second."""
    num_read = min(num_stored, max(int(duration_seconds * fps), 1))
    return evenly_spaced_indices(num_stored, num_read, "linspace")


def read_frame_table(info: VideoInfo) -> FrameTable:
    """Return the start of every frame, from the headers of the packets; nothing is decoded.

    Raises:
        VideoError: the file cannot be opened.
    """
    uses_pts = info.repair.source is TimeSource.PRESENTATION
    starts: list[int] = []
    with open_video(info.path, info.stream_index) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        with suppress(av.FFmpegError):  # reported when the frames are decoded
            for packet in read_packets(container, stream, info.repair):
                start = packet.pts if uses_pts else packet.dts
                if start is not None and not packet.is_discard:
                    starts.append(start)
    first = info.first_pts if uses_pts else min(starts, default=0)
    ticks = sorted({start - first for start in starts if start >= first}) or [0]
    frame_rate = float(rate or len(ticks) / info.duration_seconds)
    return FrameTable(ticks, info.time_base, frame_rate)
