"""Open a video file for decoding (`open_video`) and read its properties (`probe`)."""

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

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".ts", ".mpg", ".mpeg"}
    | {".wmv", ".ogv", ".3gp"}
)
MAX_MISSING_SECONDS = 1.0  # an intact file may end this much earlier than its header says
NO_TIMESTAMPS_MESSAGE = "{path} has frames without presentation times. Convert it to mp4 or mkv."

# Containers of video. Nothing that opens other files or the network by itself, such as playlists
# and image sequences.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
_OPEN_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}


@dataclass(frozen=True)
class VideoInfo:
    """Properties of the video stream of a file.

    Attributes:
        path: of the file.
        duration_seconds: from the start of the first frame to the end of the last one.
        width: in pixels as displayed, after the rotation.
        height: in pixels as displayed, after the rotation.
        rotation_degrees: counterclockwise rotation that a player applies to the stored frames.
        container: FFmpeg's name of the container format, such as "matroska,webm" or "avi".
        codec: FFmpeg's name of the codec, such as "h264" or "av1".
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

    def is_cut(
        self, end_seconds: float, last_duration_seconds: float, last_interval_seconds: float
    ) -> bool:
        """Return whether the file was cut before the end that its header gives.

        Args:
            end_seconds: end of the last frame in the file.
            last_duration_seconds: duration of that frame; 0 if unknown.
            last_interval_seconds: from the start of the frame before it to its start.
        """
        slack_seconds = max(
            MAX_MISSING_SECONDS, 2 * last_duration_seconds, 2 * last_interval_seconds
        )
        return self.duration_seconds - end_seconds > slack_seconds


def probe(path: str | Path) -> VideoInfo:
    """Read the header of a video and decode its first frame.

    Raises:
        VideoError: the file does not exist, or holds no video that decodes.
    """
    with open_video(path) as (container, stream):
        try:
            frame = next(container.decode(stream), None)
        except av.FFmpegError as error:
            raise VideoError(
                f"No frame of {path} can be decoded ({error.strerror}). Give an intact video file."
            ) from error
        if frame is None:
            raise VideoError(
                f"{path} has a video stream without frames. Give a video with at least one frame."
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
            f"The video in {path} lasts {duration_seconds} seconds. Give one longer than 0 seconds."
        )
    return VideoInfo(
        Path(path), duration_seconds, width, height, frame.rotation, format_name, codec, frame.pts
    )


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file; a context manager that returns its container and first video stream.

    Raises:
        VideoError: the file does not exist, or holds no video.
    """
    file = Path(path)
    if not file.is_file():
        fault = "is not a file" if file.exists() else "does not exist"
        raise VideoError(f"{path} {fault}. Give the path of a video file.")
    if file.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes). Give a video file.")
    try:  # FFmpeg cannot take an absolute path for a protocol such as "concat:"
        container = av.open(str(file.absolute()), options=_OPEN_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be opened as a video ({error.strerror}). Give one of {_FORMATS}."
        ) from error
    with container:
        streams = [  # the cover art of a song is not a video
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if not streams:
            types = sorted({stream.type for stream in container.streams} - {"video"})
            found = ", ".join(types) or "nothing"
            raise VideoError(f"{path} has no video stream, only {found}. Give a file with video.")
        yield container, streams[0]


def _header_seconds(
    container: InputContainer, stream: VideoStream, first_seconds: float
) -> float | None:
    """Return the duration from the header, or None if it does not give one for the video stream.

    Formats without a duration per stream (mkv, flv) count it from time zero.
    """
    if stream.duration and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - first_seconds
    if container.duration and len(container.streams) == 1:
        return container.duration / av.time_base - first_seconds
    return None  # the container's duration may be the duration of a longer audio track


def _scanned_seconds(path: str | Path, first_seconds: float) -> float:
    """Return the end of the last video packet, relative to the first frame.

    If no stream reaches the end that the header gives, the file was cut and the header's end
    counts.
    """
    video_end = last_end = first_seconds
    with open_video(path) as (container, stream):
        with suppress(av.FFmpegError):  # reported when the video is decoded
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    last_end = max(last_end, end)
                    if packet.stream_index == stream.index:
                        video_end = max(video_end, end)
        header_end = (container.duration or 0) / av.time_base
    end = header_end if header_end - last_end > MAX_MISSING_SECONDS else video_end
    return end - first_seconds
