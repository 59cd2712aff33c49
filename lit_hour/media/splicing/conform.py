"""Encode a video or an image again, so that it can be spliced: `conform_video`, `conform_image`.

The frames are turned upright, fitted into a frame size between black bars, and displayed at a
constant rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

from av.filter import Graph
from av.video.frame import VideoFrame
from PIL import Image

from lit_hour.errors import VideoError
from lit_hour.media.jpeg_frames import displayed_frames
from lit_hour.media.orientation import find_transpose, is_sideways
from lit_hour.media.splicing.footage import (
    PIXEL_FORMAT,
    TICKS_PER_SECOND,
    Footage,
    FrameSize,
    index_footage,
)
from lit_hour.media.splicing.video_writer import open_writer
from lit_hour.media.video_probe import VideoInfo, open_video, probe

LOWEST_RATE, HIGHEST_RATE = 10, 30  # frames per second of an encoded video
IMAGE_RATE = 10

_UPRIGHT_FILTERS: dict[Image.Transpose | None, tuple[tuple[str, str], ...]] = {
    None: (),
    Image.Transpose.FLIP_LEFT_RIGHT: (("hflip", ""),),
    Image.Transpose.FLIP_TOP_BOTTOM: (("vflip", ""),),
    Image.Transpose.ROTATE_90: (("transpose", "cclock"),),
    Image.Transpose.ROTATE_180: (("hflip", ""), ("vflip", "")),
    Image.Transpose.ROTATE_270: (("transpose", "clock"),),
    Image.Transpose.TRANSPOSE: (("transpose", "cclock_flip"),),
    Image.Transpose.TRANSVERSE: (("transpose", "clock_flip"),),
}


def conform_video(
    source: Path, target: Path, size: FrameSize, max_seconds: float = math.inf
) -> Footage:
    """Encode a video in a frame size, and return the index of the file.

    Args:
        source: a video of any codec.
        target: file to write.
        size: of the frames to write; both sides are even.
        max_seconds: what lies behind is left out.

    Raises:
        VideoError: the video cannot be decoded to its end.
        OSError: the file cannot be written.
    """
    info = probe(source)
    header = _read_header(source)
    step = TICKS_PER_SECOND // header.frame_rate
    with open_writer(target, size) as writer:
        num_frames = max(1, int(min(info.duration_seconds, max_seconds) * TICKS_PER_SECOND) // step)
        frames = _resample(_displayed(info), step, num_frames)
        fit = _Fitter(size, header.pixel_aspect)
        pictures = ((fit(frame), start) for frame, start in frames)
        writer.encode(pictures, num_frames * step)
    return index_footage(target)


def conform_image(image: Image.Image, target: Path, size: FrameSize, seconds: float) -> Footage:
    """Encode an RGB image as a video of so many seconds, and return the index of the file.

    Raises:
        OSError: the file cannot be written.
    """
    step = TICKS_PER_SECOND // IMAGE_RATE
    num_frames = max(1, round(seconds * IMAGE_RATE))
    fitted = fit_image(image, size)
    with open_writer(target, size) as writer:
        frames = ((VideoFrame.from_image(fitted), index * step) for index in range(num_frames))
        writer.encode(frames, num_frames * step)
    return index_footage(target)


def fit_image(image: Image.Image, size: FrameSize) -> Image.Image:
    """Fit an RGB image into a frame size, between black bars."""
    fitted = _fitted_size(image.width / image.height, size)
    scaled = image.resize((fitted.width, fitted.height), Image.Resampling.BICUBIC)
    frame = Image.new("RGB", (size.width, size.height))
    frame.paste(scaled, ((size.width - fitted.width) // 2, (size.height - fitted.height) // 2))
    return frame


def _fitted_size(aspect: float, size: FrameSize) -> FrameSize:
    """Return the largest size of an aspect ratio (width / height) within a frame size."""
    width = min(size.width, max(1, round(size.height * aspect)))
    return FrameSize(width, min(size.height, max(1, round(size.width / aspect))))


def check_decodes(footage: Footage) -> None:
    """Decode every frame of a video.

    Raises:
        VideoError: one cannot be decoded.
    """
    num_frames = sum(1 for _ in displayed_frames(probe(footage.path)))
    if num_frames != footage.num_frames:
        raise VideoError(
            f"Only {num_frames} of {footage.num_frames} frames of {footage.path} can be decoded."
            " Give an intact file."
        )


class _Header(NamedTuple):
    """Properties of a video: frames per second to encode, and pixel shape."""

    frame_rate: int
    pixel_aspect: float


def _read_header(path: Path) -> _Header:
    with open_video(path) as (_, stream):
        rate = round(stream.average_rate or HIGHEST_RATE)
        return _Header(
            min(HIGHEST_RATE, max(LOWEST_RATE, rate)),
            float(stream.sample_aspect_ratio or 1),
        )


def _displayed(info: VideoInfo) -> Iterator[tuple[VideoFrame, int]]:
    """Yield each frame with its end in ticks.

    Raises:
        VideoError: a frame cannot be decoded, or the file is cut.
    """
    for frame, end_seconds in displayed_frames(info):
        yield frame, round(min(end_seconds, info.duration_seconds) * TICKS_PER_SECOND)


def _resample(
    displayed: Iterator[tuple[VideoFrame, int]], step: int, num_frames: int
) -> Iterator[tuple[VideoFrame, int]]:
    """Yield the frame on screen at each multiple of `step` ticks, with that time."""
    index, last = 0, None
    for frame, end in displayed:
        last = frame
        while index < num_frames and index * step < end:
            yield frame, index * step
            index += 1
        if index == num_frames:
            return
    while last is not None and index < num_frames:  # the header promised a little more
        yield last, index * step
        index += 1


class _Fitter:
    """Turns frames upright and fits them into a frame size, between black bars."""

    def __init__(self, size: FrameSize, pixel_aspect: float) -> None:
        self._size, self._pixel_aspect = size, pixel_aspect
        self._graph: Graph | None = None
        self._source: VideoFrame | None = None
        self._fitted: VideoFrame | None = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Return a frame of the size; a frame that is repeated is converted once.

        Raises:
            FFmpegError: frames differ in size or pixel format.
        """
        if frame is self._source and self._fitted is not None:
            return self._fitted
        if self._graph is None:
            self._graph = self._build_graph(frame)
        self._graph.push(frame)
        self._source, self._fitted = frame, cast(VideoFrame, self._graph.pull())
        return self._fitted

    def _build_graph(self, frame: VideoFrame) -> Graph:
        transpose = find_transpose(frame)
        aspect = self._pixel_aspect * frame.width / frame.height
        size = _fitted_size(1 / aspect if is_sideways(transpose) else aspect, self._size)
        filters = [
            *_UPRIGHT_FILTERS[transpose],
            ("scale", f"{size.width}:{size.height}:flags=bicubic:out_range=tv"),
            ("format", PIXEL_FORMAT),
            ("pad", f"{self._size.width}:{self._size.height}:-1:-1"),
            ("setsar", "1"),
        ]
        graph = Graph()
        node = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=Fraction(1, TICKS_PER_SECOND),
        )
        for name, arguments in filters:
            successor = graph.add(name, arguments)
            node.link_to(successor)
            node = successor
        node.link_to(graph.add("buffersink"))
        graph.configure()
        return graph
