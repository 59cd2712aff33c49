"""Find the videos of a folder (`find_videos`) and read each clip by clip (`read_clips`).

Only one clip is in memory at a time, so memory does not grow with the video.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, takewhile
from pathlib import Path

from torch.nn.functional import interpolate

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.errors import TeacherError, list_first
from lit_hour.media.subtitles import SUBTITLE_SUFFIXES
from lit_hour.media.transforms import encode_jpeg
from lit_hour.media.video_probe import VIDEO_SUFFIXES, VideoInfo, probe
from lit_hour.media.video_reader import read_frames, report_fault

CHUNK_FRAMES = 16
MIN_LAST_CLIP_RATIO = 0.5  # of a clip's length; a shorter rest joins the clip before

Interval = tuple[float, float]


@dataclass(frozen=True)
class VideoFile:
    """A video to annotate; `name` is its path inside the folder of videos, as in question files."""

    name: str
    info: VideoInfo

    @classmethod
    def open(cls, folder: Path, name: str) -> VideoFile:
        """Read the header of a video.

        Raises:
            VideoError: the file cannot be read.
        """
        return cls(name, probe(folder / name))

    @property
    def duration_seconds(self) -> float:
        """Duration of the video."""
        return self.info.duration_seconds

    def prompt_heading(self) -> str:
        """Return the first lines of every request about the video."""
        return f"Video: {self.name}\nDuration: {self.duration_seconds:.1f} s"


@dataclass(frozen=True)
class Clip:
    """A part of a video.

    Attributes:
        interval: start and end in seconds.
        timestamps: of its frames, in seconds.
        jpegs: its frames as JPEG files.
    """

    interval: Interval
    timestamps: tuple[float, ...]
    jpegs: tuple[bytes, ...]


def find_videos(folder: Path) -> list[str]:
    """Return the paths of all videos relative to a folder, at any depth, sorted.

    A warning lists the files that are left out by their suffix, but for subtitles and hidden files.

    Raises:
        TeacherError: the folder contains no video.
    """
    found: list[str] = []
    others: list[str] = []
    for path in filter(Path.is_file, folder.rglob("*")):
        suffix, name = path.suffix.lower(), str(path.relative_to(folder))
        if suffix in VIDEO_SUFFIXES:
            found.append(name)
        elif suffix not in SUBTITLE_SUFFIXES and not path.name.startswith("."):
            others.append(name)
    if others:
        listed = list_first(sorted(others))
        warnings.warn(
            f"{len(others)} files of {folder} do not have the suffix of a video and are left out:"
            f" {listed}.",
            stacklevel=2,
        )
    if not found:
        examples = ", ".join(sorted(VIDEO_SUFFIXES)[:4])
        raise TeacherError(
            f"{folder} contains no video. Give a folder with files such as {examples}."
        )
    return sorted(found)


def split_into_clips(duration_seconds: float, clip_seconds: float) -> list[Interval]:
    """Return the intervals of a video's clips: equally long, except for the last."""
    num_clips = max(1, int(duration_seconds // clip_seconds))
    if duration_seconds - num_clips * clip_seconds >= MIN_LAST_CLIP_RATIO * clip_seconds:
        num_clips += 1
    starts = [index * clip_seconds for index in range(num_clips)]
    return list(zip(starts, [*starts[1:], duration_seconds], strict=True))


def read_clips(video: VideoFile, config: VideoMarathonConfig) -> Iterator[Clip]:
    """Read a video once, clip by clip.

    Raises:
        VideoError: the video cannot be read to its end.
    """
    intervals = split_into_clips(video.duration_seconds, config.clip_seconds)
    timestamps = [_timestamps(interval, config.fps) for interval in intervals]
    all_timestamps = [seconds for clip in timestamps for seconds in clip]
    jpegs = _read_jpegs(video.info, all_timestamps, config)
    for interval, clip_timestamps in zip(intervals, timestamps, strict=True):
        yield Clip(interval, clip_timestamps, tuple(islice(jpegs, len(clip_timestamps))))


def _timestamps(interval: Interval, fps: float) -> tuple[float, ...]:
    start, end = interval
    return tuple(takewhile(lambda seconds: seconds < end, (start + i / fps for i in count())))


def _read_jpegs(
    info: VideoInfo, timestamps: Sequence[float], config: VideoMarathonConfig
) -> Iterator[bytes]:
    """Yield the frame at each time as a JPEG file with the aspect ratio of the video."""
    report_fault(info, "raise")
    longer = max(info.width, info.height)
    height, width = (
        max(1, round(config.image_size * side / longer)) for side in (info.height, info.width)
    )
    for frames in read_frames(info, timestamps, config.image_size, "raise", CHUNK_FRAMES):
        images = frames.images  # (frames, 3, size, size)
        if height != width:
            size = (height, width)
            images = interpolate(images, size, mode="bicubic", antialias=True)  # (frames, 3, h, w)
        yield from (encode_jpeg(image, config.jpeg_quality) for image in images)
