"""A folder in, its videos out; a video in, its clips out, each with its frames as small JPEG files.

A clip is read when it is asked about and then forgotten, so that memory does not grow with the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, takewhile
from pathlib import Path

from torch.nn.functional import interpolate

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import TeacherError
from lit_hour.media.transforms import encode_jpeg
from lit_hour.media.video_probe import VIDEO_SUFFIXES, probe
from lit_hour.media.video_reader import read_frames

CHUNK_FRAMES = 16
MIN_LAST_CLIP_RATIO = (
    0.5  # share of a clip; what is left over at the end and shorter belongs to the clip before
)

Interval = tuple[float, float]


@dataclass(frozen=True)
class VideoFile:
    """A video that is annotated; `name` is its path inside the folder of videos, as question files hold it."""

    path: Path
    name: str
    duration_seconds: float
    width: int
    height: int

    @classmethod
    def open(cls, folder: Path, name: str) -> VideoFile:
        """Read the header of a video.

        Raises:
            VideoError: it cannot be read.
        """
        info = probe(folder / name)
        return cls(info.path, name, info.duration_seconds, info.width, info.height)

    def prompt_heading(self) -> str:
        """What every request about the video begins with."""
        return f"Video: {self.name}\nDuration: {self.duration_seconds:.1f} s"


@dataclass(frozen=True)
class Clip:
    """A part of a video: `pictures` are its frames as JPEG files, each seen at its time in `seconds`."""

    interval: Interval
    seconds: tuple[float, ...]
    jpegs: tuple[bytes, ...]


def find_videos(folder: Path) -> list[str]:
    """The path inside the folder of each video in it, at any depth, in the order of the alphabet.

    Raises:
        TeacherError: there is none.
    """
    found = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    )
    if not found:
        raise TeacherError(
            f"{folder} holds no video: give a folder with files such as {', '.join(sorted(VIDEO_SUFFIXES)[:4])}"
        )
    return found


def split_into_clips(duration_seconds: float, clip_seconds: float) -> list[Interval]:
    """The parts of a video that get a caption each: equally long, but for the last."""
    num_clips = max(1, int(duration_seconds // clip_seconds))
    if duration_seconds - num_clips * clip_seconds >= MIN_LAST_CLIP_RATIO * clip_seconds:
        num_clips += 1
    starts = [index * clip_seconds for index in range(num_clips)]
    return list(zip(starts, [*starts[1:], duration_seconds], strict=True))


def read_clips(footage: VideoFile, settings: VideoMarathonConfig) -> Iterator[Clip]:
    """Read a video once, clip by clip.

    Raises:
        VideoError: it cannot be read to its end.
    """
    intervals = split_into_clips(footage.duration_seconds, settings.clip_seconds)
    moments = [_moments(interval, settings.fps) for interval in intervals]
    pictures = _read_pictures(footage, [each for seconds in moments for each in seconds], settings)
    for interval, seconds in zip(intervals, moments, strict=True):
        yield Clip(interval, seconds, tuple(islice(pictures, len(seconds))))


def _moments(interval: Interval, frames_per_second: float) -> tuple[float, ...]:
    start, end = interval
    return tuple(
        takewhile(
            lambda seconds: seconds < end, (start + index / frames_per_second for index in count())
        )
    )


def _read_pictures(
    footage: VideoFile, seconds: Sequence[float], settings: VideoMarathonConfig
) -> Iterator[bytes]:
    """The frame at each time as a JPEG file, in the proportions of the video."""
    longer = max(footage.width, footage.height)
    height, width = (
        max(1, round(settings.image_size * side / longer))
        for side in (footage.height, footage.width)
    )
    for frames in read_frames(footage.path, seconds, settings.image_size, "raise", CHUNK_FRAMES):
        images = frames.images  # (frames, 3, size, size)
        if height != width:
            images = interpolate(
                images, (height, width), mode="bicubic", antialias=True
            )  # (frames, 3, height, width)
        yield from (encode_jpeg(image, settings.jpeg_quality) for image in images)
