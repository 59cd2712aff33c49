"""Decode every frame of a video, with its time."""

from pathlib import Path

import av
import numpy as np

from lit_hour.media.splicing.footage import TICKS_PER_SECOND
from lit_hour.media.splicing.splice import Excerpt

TimedFrame = tuple[int, np.ndarray]


def decode_all(path: Path) -> list[TimedFrame]:
    """Return the start of each frame in ticks, and its planes."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        time_base = container.streams.video[0].time_base
    first = frames[0].pts
    return [
        (round((frame.pts - first) * time_base * TICKS_PER_SECOND), frame.to_ndarray())
        for frame in frames
    ]


def expected_frames(excerpts: list[Excerpt]) -> list[TimedFrame]:
    """Return the frames of excerpts one after the other, decoded from their own files."""
    frames, start = [], 0
    for excerpt in excerpts:
        chosen = decode_all(excerpt.footage.path)[excerpt.first_frame : excerpt.end_frame]
        frames += [(start + ticks - chosen[0][0], image) for ticks, image in chosen]
        start += excerpt.ticks
    return frames


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean absolute difference of two images in gray levels."""
    return float(np.abs(one.astype(int) - other).mean())
