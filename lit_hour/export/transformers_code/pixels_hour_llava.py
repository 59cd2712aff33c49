"""Frames of a video file, tiles of one image, and several images, as squares of uint8 pixels."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .memory_hour_llava import evenly_spaced

TIME_TOLERANCE_SECONDS = 1e-6  # by which a frame may come after the time at which it is wanted
PAD_COLOR = (127, 127, 127)


class SamplingSettings(NamedTuple):
    """Which frames of a video are read.

    Attributes:
        sampling: those on screen at evenly spaced times, or every n-th one, as the published
            Hour-LLaVA reads them.
        fps: frames per second.
        min_frames: a short video gets at least this many.
        max_frames: a long video gets at most this many.
    """

    sampling: Literal["seconds", "published"]
    fps: float
    min_frames: int
    max_frames: int


def resize(image: Image.Image, image_size: int) -> Tensor:
    """Resize an image to a square, ignoring its aspect ratio: `(3, size, size)` uint8."""
    rgb = image.convert("RGB").resize((image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # (3, size, size)


def to_image(frame: Any) -> Image.Image:
    """Return a PIL image of one, or of an array `(height, width, 3)` or `(3, height, width)`.

    Raises:
        ValueError: the array is not uint8 of one of these shapes.
    """
    if isinstance(frame, Image.Image):
        return frame
    pixels = np.asarray(frame)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)  # (height, width, 3)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"A frame is {pixels.dtype} {pixels.shape}. Give uint8 RGB pixels.")
    return Image.fromarray(pixels)


def cut_into_tiles(
    image: Image.Image, image_size: int, max_grid: int
) -> tuple[Tensor, tuple[int, int]]:
    """Cut an image into the grid of tiles that keeps most of its pixels (LLaVA's anyres).

    Returns:
        A small view and the tiles row by row, `(1 + tiles, 3, size, size)` uint8, and the rows and
        columns of the grid.
    """
    rows, columns = choose_grid(image.width, image.height, image_size, max_grid)
    width, height = columns * image_size, rows * image_size
    scale_x, scale_y = width / image.width, height / image.height
    if scale_x < scale_y:
        size = (width, min(math.ceil(image.height * scale_x), height))
    else:
        size = (min(math.ceil(image.width * scale_y), width), height)
    canvas = Image.new("RGB", (width, height))
    fitted = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    canvas.paste(fitted, ((width - size[0]) // 2, (height - size[1]) // 2))
    tiles = [
        canvas.crop((left, top, left + image_size, top + image_size))
        for top in range(0, height, image_size)
        for left in range(0, width, image_size)
    ]
    return torch.stack([resize(tile, image_size) for tile in (image, *tiles)]), (rows, columns)


def choose_grid(width: int, height: int, image_size: int, max_grid: int) -> tuple[int, int]:
    """Return rows and columns of the grid that keeps the most pixels, with the smallest bars."""
    kept_and_wasted = {}
    for columns in range(1, max_grid + 1):
        for rows in range(1, max_grid + 1):
            grid_width, grid_height = columns * image_size, rows * image_size
            scale = min(grid_width / width, grid_height / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            kept_and_wasted[rows, columns] = (kept, kept - grid_width * grid_height)
    return max(kept_and_wasted, key=lambda grid: kept_and_wasted[grid])


def pad_to_squares(images: Sequence[Image.Image], image_size: int) -> Tensor:
    """Pad images to squares with gray, and resize them: `(images, 3, size, size)` uint8."""
    squares = []
    for image in images:
        side = max(image.size)
        square = Image.new("RGB", (side, side), PAD_COLOR)
        corner = ((side - image.width) // 2, (side - image.height) // 2)
        square.paste(image.convert("RGB"), corner)
        squares.append(resize(square, image_size))
    return torch.stack(squares)


def read_video(
    path: str | Path, image_size: int, settings: SamplingSettings
) -> tuple[Tensor, float]:
    """Read the sampled frames of a video file in one pass, with PyAV.

    Returns:
        Frames `(frames, 3, size, size)` uint8, and the duration in seconds.

    Raises:
        ImportError: PyAV is missing.
        ValueError: the file has no frames.
    """
    starts, seconds, frame_rate = _read_starts(path)
    if settings.sampling == "published":
        times = [starts[index] for index in _published_frames(len(starts), frame_rate, settings)]
        seconds = len(starts) / frame_rate
    else:
        times = _sample_times(seconds, settings)
    frames: list[Tensor] = []
    shown = None  # the frame on screen, until the next one begins
    for frame, start in _decode(path):
        num_due = bisect_left(times, start - TIME_TOLERANCE_SECONDS)
        if shown is not None and num_due > len(frames):
            pixels = resize(_upright(shown), image_size)  # (3, size, size)
            frames += [pixels] * (num_due - len(frames))
        shown = frame
    if shown is not None and len(times) > len(frames):
        frames += [resize(_upright(shown), image_size)] * (len(times) - len(frames))
    return torch.stack(frames), seconds  # (frames, 3, size, size)


def _open(path: str | Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading a video file needs PyAV: pip install av") from error
    return av.open(str(path))


def _read_starts(path: str | Path) -> tuple[list[float], float, float]:
    """Return the start of each frame in seconds, the duration, and frames per second."""
    with _open(path) as container:
        stream = container.streams.video[0]
        tick_seconds, rate = float(stream.time_base), stream.average_rate or stream.guessed_rate
        packets = [one for one in container.demux(stream) if one.pts is not None]
    ticks = sorted({one.pts for one in packets if not one.is_discard})
    if not ticks:
        raise ValueError(f"{path} has no frames. Give a video.")
    end = max(one.pts + (one.duration or 0) for one in packets)
    seconds = (end - ticks[0]) * tick_seconds
    starts = [(tick - ticks[0]) * tick_seconds for tick in ticks]
    return starts, seconds, float(rate or len(starts) / seconds)


def _decode(path: str | Path) -> Iterator[tuple[Any, float]]:
    """Decode the frames in order, each with its start in seconds."""
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first = None
        for frame in container.decode(stream):
            if frame.pts is not None:
                first = frame.pts if first is None else first
                yield frame, float((frame.pts - first) * stream.time_base)


def _upright(frame: Any) -> Image.Image:
    """Return a decoded frame as an image, turned as its display matrix says."""
    image: Image.Image = frame.to_image()
    quarter_turns = round(frame.rotation / 90) % 4
    return image.rotate(90 * quarter_turns, expand=True) if quarter_turns else image


def _sample_times(duration_seconds: float, settings: SamplingSettings) -> list[float]:
    """Return evenly spaced times in seconds: the first one at 0, all before the end."""
    at_rate: Iterator[float] = takewhile(
        lambda seconds: seconds < duration_seconds, (index / settings.fps for index in count())
    )
    times = list(islice(at_rate, settings.max_frames + 1))
    num_frames = min(max(len(times), settings.min_frames), settings.max_frames)
    if num_frames == len(times):
        return times
    return [index * duration_seconds / num_frames for index in range(num_frames)]


def _published_frames(num_frames: int, rate: float, settings: SamplingSettings) -> list[int]:
    """Return the frames that the published Hour-LLaVA reads: every n-th, or evenly spaced ones."""
    indices = list(range(0, num_frames, max(round(rate / settings.fps), 1)))
    if len(indices) < settings.min_frames:
        indices = evenly_spaced(num_frames, min(num_frames, settings.min_frames)).tolist()
    if len(indices) > settings.max_frames:
        indices = evenly_spaced(num_frames, settings.max_frames).tolist()
    return indices
