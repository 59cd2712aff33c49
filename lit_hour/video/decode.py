"""A video file in, the resized frames that are on screen at given times out. The only home of PyAV.

One decoding pass; only frames that are asked for are converted, and none is kept at full size, so memory does not grow
with the video. Times are presentation times counted from the first frame: index / rate is wrong for a variable rate.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL.Image import Image
from torch import Tensor

from lit_hour.errors import VideoError
from lit_hour.types import Frames
from lit_hour.video.transform import resize_image, rotate_image

OnDamage = Literal["error", "use"]

# Containers of video, and nothing that opens other files or the network on its own: no playlists, no picture sequences.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
_OPEN_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_SAME_SECONDS = 1e-6  # times this close are one time: they come from different divisions
_NO_TIMES = "{path} has frames without presentation times; convert it to mp4 or mkv"
_SHORT_SECONDS = 1.0  # a file that ends earlier than its header says by no more than this is whole


class DamagedVideoWarning(UserWarning):
    """A video was used although it could not be read to its end."""


@dataclass(frozen=True)
class VideoInfo:
    """What the file says about its video; `width` and `height` in pixels as displayed, after the rotation.

    Attributes:
        duration_seconds: from the start of the first frame to the end of the last one.
        rotation_degrees: counterclockwise turn that a player applies to the stored frames.
        codec: as FFmpeg names it: "h264", "av1".
    """

    path: Path
    duration_seconds: float
    width: int
    height: int
    rotation_degrees: int
    codec: str


def probe(path: str | Path) -> VideoInfo:
    """Read the header of a video and decode its first frame.

    Raises:
        VideoError: there is no such file, or it holds no video that decodes.
    """
    with _open_video(path) as (container, stream):
        try:
            frame = next(container.decode(stream), None)
        except av.FFmpegError as error:
            raise VideoError(f"{path}: no frame of the video can be decoded ({error.strerror}); give a whole file") from error
        if frame is None:
            raise VideoError(f"{path} has a video stream without frames; give a video with at least one frame")
        if frame.time is None:
            raise VideoError(_NO_TIMES.format(path=path))
        duration_seconds = _header_seconds(container, stream, frame.time)
        sideways = round(frame.rotation / 90) % 2 == 1
        width, height = (frame.height, frame.width) if sideways else (frame.width, frame.height)
        codec = stream.codec_context.codec.canonical_name
    if duration_seconds is None:
        duration_seconds = _scanned_seconds(path, frame.time)
    if duration_seconds <= 0:
        raise VideoError(f"{path} has a video that lasts {duration_seconds} seconds; give one that lasts longer than 0")
    return VideoInfo(Path(path), duration_seconds, width, height, frame.rotation, codec)


def read_frames(
    video: str | Path | VideoInfo, timestamps: Sequence[float], size_pixels: int, on_damage: OnDamage, chunk_frames: int = 64
) -> Generator[Frames, None, float]:
    """The frames that are on screen at the given times, as a player shows them, in chunks.

    Args:
        video: its path, or what `probe` has said of it.
        timestamps: seconds from the first frame, in order; several may fall on one frame.
        size_pixels: side of the square that each frame is resized to.
        on_damage: for a file that stops decoding before the last timestamp: "error" refuses it when that point is
            reached, "use" ends the chunks there with a `DamagedVideoWarning`.
        chunk_frames: frames in a chunk; the last one may have fewer.

    Yields:
        Images `(frames, 3, size_pixels, size_pixels)` uint8 with their timestamps `(frames,)` float32.

    Returns:
        The seconds of the video that could be read: all of it, or up to where a damaged one ends.

    Raises:
        VideoError: the file cannot be read (see `probe`), is damaged, or a timestamp lies outside it or out of order.
    """
    info = video if isinstance(video, VideoInfo) else probe(video)
    with _open_video(info.path) as (container, stream):
        playback = _Playback(container, stream, info)
        is_whole = yield from _read_chunks(playback, timestamps, size_pixels, on_damage, chunk_frames)
    return info.duration_seconds if is_whole else playback.end_seconds


class _Playback:
    """One pass over the frames of a video, each with the time at which it leaves the screen.

    Attributes:
        last_start_seconds: when the last frame that decoded comes on screen.
        end_seconds: when it leaves the screen, known after the pass; infinite for a whole file, whose last frame stays.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, info: VideoInfo) -> None:
        self.info = info
        self.last_start_seconds = 0.0
        self.end_seconds = 0.0
        self._container = container
        self._stream = stream
        self._stopped = False

    def __iter__(self) -> Iterator[tuple[av.VideoFrame, float]]:
        shown: av.VideoFrame | None = None
        interval_seconds = 0.0
        for frame, start_seconds in self._decode():
            if shown is not None:
                yield shown, start_seconds
                interval_seconds = start_seconds - self.last_start_seconds
            shown, self.last_start_seconds = frame, start_seconds
        if shown is None:
            raise VideoError(f"{self.info.path}: no frame of the video can be decoded; give a whole file")
        self.end_seconds = self._end(shown, interval_seconds)
        yield shown, self.end_seconds

    def _decode(self) -> Iterator[tuple[av.VideoFrame, float]]:
        self._stream.thread_type = "AUTO"
        first_pts: int | None = None
        try:
            for frame in self._container.decode(self._stream):
                if frame.pts is None or frame.time_base is None:
                    raise VideoError(_NO_TIMES.format(path=self.info.path))
                first_pts = frame.pts if first_pts is None else first_pts
                yield frame, float((frame.pts - first_pts) * frame.time_base)
        except av.FFmpegError:
            self._stopped = True  # whether anything that was asked for is missing is judged at the end of the pass

    def _end(self, last: av.VideoFrame, interval_seconds: float) -> float:
        """When the last frame leaves the screen; never, unless the decoder stopped or the header promised more."""
        on_screen_seconds = float((last.duration or 0) * (last.time_base or 0))
        end_seconds = self.last_start_seconds + (on_screen_seconds or interval_seconds)
        slack_seconds = max(_SHORT_SECONDS, 2 * on_screen_seconds, 2 * interval_seconds)
        is_cut = self._stopped or self.info.duration_seconds - end_seconds > slack_seconds
        return end_seconds if is_cut else math.inf


def _read_chunks(
    playback: _Playback, timestamps: Sequence[float], size_pixels: int, on_damage: OnDamage, chunk_frames: int
) -> Generator[Frames, None, bool]:
    """The chunks, and whether they are all there."""
    _check_timestamps(timestamps, playback.info)
    pictures = _pick_pictures(playback, timestamps, size_pixels)
    num_read = 0
    while chunk := list(islice(pictures, chunk_frames)):
        seconds = timestamps[num_read : num_read + len(chunk)]
        yield Frames(torch.stack(chunk), torch.tensor(seconds, dtype=torch.float32))  # (frames, 3, size, size), (frames,)
        num_read += len(chunk)
    if num_read == len(timestamps):
        return True
    readable = (
        f"{playback.info.path} is damaged or cut short: it could be read up to {playback.end_seconds:.1f} s"
        f" of {playback.info.duration_seconds:.1f} s (last frame at {playback.last_start_seconds:.1f} s)"
    )
    if on_damage == "error":
        raise VideoError(f"{readable}; give a whole file, or set video.on_damage=use to use what could be read")
    missing = f"{len(timestamps) - num_read} of {len(timestamps)} frames are missing"
    warnings.warn(f"{readable}; {missing}", DamagedVideoWarning, stacklevel=3)
    return False


def _check_timestamps(timestamps: Sequence[float], info: VideoInfo) -> None:
    inside = all(0 <= seconds < info.duration_seconds for seconds in timestamps)
    if not inside or list(timestamps) != sorted(timestamps):
        raise VideoError(f"frames of {info.path} have to be asked for in order, from 0 to before {info.duration_seconds} s")


def _pick_pictures(playback: _Playback, timestamps: Sequence[float], size_pixels: int) -> Iterator[Tensor]:
    """One picture `(3, size_pixels, size_pixels)` for each timestamp, as far as the video can be read."""
    num_picked = 0
    for frame, leaves_seconds in playback:
        picture: Tensor | None = None
        while num_picked < len(timestamps) and timestamps[num_picked] < leaves_seconds - _SAME_SECONDS:
            if picture is None:
                picture = resize_image(_upright_image(frame, playback.info.path), size_pixels)  # (3, size, size)
            yield picture
            num_picked += 1
        if num_picked == len(timestamps):
            return


def _upright_image(frame: VideoFrame, path: Path) -> Image:
    """A frame as a player shows it."""
    try:
        return rotate_image(frame.to_image(), frame.rotation)
    except av.FFmpegError as error:
        raise VideoError(f"{path}: frames of the pixel format {frame.format.name} cannot be shown; convert it") from error


@contextmanager
def _open_video(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    file = Path(path)
    if not file.is_file():
        raise VideoError(f"{path} {'is not a file' if file.exists() else 'does not exist'}; give the path of a video file")
    if file.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); give a video file")
    try:  # an absolute path cannot be taken for a protocol such as "concat:"
        container = av.open(str(file.resolve()), options=_OPEN_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be opened as a video ({error.strerror}); give one of {_FORMATS}") from error
    with container:
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            found = ", ".join(sorted({stream.type for stream in container.streams} - {"video"})) or "nothing"
            raise VideoError(f"{path} has no video stream, only {found}; give a file with video")  # a cover picture is none
        yield container, streams[0]


def _header_seconds(container: InputContainer, stream: VideoStream, first_seconds: float) -> float | None:
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
    with _open_video(path) as (container, stream):
        with suppress(av.FFmpegError):  # the decoding pass meets the damage and reports it
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    last_end = max(last_end, end)
                    video_end = max(video_end, end) if packet.stream_index == stream.index else video_end
        header_end = (container.duration or 0) / av.time_base
    return (header_end if header_end - last_end > _SHORT_SECONDS else video_end) - first_seconds
