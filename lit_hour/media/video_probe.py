"""A video file in, what its header says out; and the file opened for decoding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from lit_hour.errors import VideoError

NO_TIMESTAMPS_MESSAGE = "{path} has frames without presentation times; convert it to mp4 or mkv"
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".ts", ".mpg", ".mpeg", ".wmv")
    + (".ogv", ".3gp")
)
MAX_MISSING_SECONDS = (
    1.0  # a file that ends earlier than its header says by no more than this is whole
)

# Containers of video, and nothing that opens other files or the network on its own: no playlists, no picture sequences.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
_OPEN_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}


@dataclass(frozen=True)
class VideoInfo:
    """What the file says about its video; `width` and `height` in pixels as displayed, after the rotation.

    Attributes:
        duration_seconds: from the start of the first frame to the end of the last one.
        rotation_degrees: counterclockwise turn that a player applies to the stored frames.
        container: as FFmpeg names it: "matroska,webm", "avi".
        codec: as FFmpeg names it: "h264", "av1".
        first_pts: presentation time of the first frame, in units of the stream's time base.
    """

    path: Path
    duration_seconds: float
    width: int
    height: int
    rotation_degrees: int
    container: str
    codec: str
    first_pts: int


def probe(path: str | Path) -> VideoInfo:
    """Read the header of a video and decode its first frame.

    Raises:
        VideoError: there is no such file, or it holds no video that decodes.
    """
    with open_video(path) as (container, stream):
        try:
            frame = next(container.decode(stream), None)
        except av.FFmpegError as error:
            raise VideoError(
                f"{path}: no frame of the video can be decoded ({error.strerror}); give a whole file"
            ) from error
        if frame is None:
            raise VideoError(
                f"{path} has a video stream without frames; give a video with at least one frame"
            )
        if frame.pts is None or frame.time is None:
            raise VideoError(NO_TIMESTAMPS_MESSAGE.format(path=path))
        duration_seconds = _header_seconds(container, stream, frame.time)
        sideways = round(frame.rotation / 90) % 2 == 1
        width, height = (frame.height, frame.width) if sideways else (frame.width, frame.height)
        codec, format_name = stream.codec_context.codec.canonical_name, container.format.name
    if duration_seconds is None:
        duration_seconds = _scanned_seconds(path, frame.time)
    if duration_seconds <= 0:
        raise VideoError(
            f"{path} has a video that lasts {duration_seconds} seconds; give one that lasts longer than 0"
        )
    return VideoInfo(
        Path(path), duration_seconds, width, height, frame.rotation, format_name, codec, frame.pts
    )


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its first video stream, closed in the end.

    Raises:
        VideoError: there is no such file, or it holds no video.
    """
    file = Path(path)
    if not file.is_file():
        raise VideoError(
            f"{path} {'is not a file' if file.exists() else 'does not exist'}; give the path of a video file"
        )
    if file.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); give a video file")
    try:  # an absolute path cannot be taken for a protocol such as "concat:"
        container = av.open(str(file.resolve()), options=_OPEN_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be opened as a video ({error.strerror}); give one of {_FORMATS}"
        ) from error
    with container:
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if not streams:
            found = (
                ", ".join(sorted({stream.type for stream in container.streams} - {"video"}))
                or "nothing"
            )
            raise VideoError(
                f"{path} has no video stream, only {found}; give a file with video"
            )  # a cover picture is none
        yield container, streams[0]


def _header_seconds(
    container: InputContainer, stream: VideoStream, first_seconds: float
) -> float | None:
    """The duration that the header gives, or None. Formats without one per stream (mkv, flv) count it from time zero."""
    if stream.duration and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - first_seconds
    if container.duration and len(container.streams) == 1:
        return container.duration / av.time_base - first_seconds
    return None  # the container's duration may be that of a longer audio track


def _scanned_seconds(path: str | Path, first_seconds: float) -> float:
    """The end of the last packet; or the header's, when no stream of the file reaches it because the file was cut."""
    video_end = last_end = first_seconds
    with open_video(path) as (container, stream):
        with suppress(av.FFmpegError):  # the decoding pass meets the damage and reports it
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    last_end = max(last_end, end)
                    video_end = (
                        max(video_end, end) if packet.stream_index == stream.index else video_end
                    )
        header_end = (container.duration or 0) / av.time_base
    return (
        header_end if header_end - last_end > MAX_MISSING_SECONDS else video_end
    ) - first_seconds
