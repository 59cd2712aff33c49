"""Open a video file for decoding (`open_video`) and find out its properties (`probe`).

`README.md` says what each source of a duration means. This module must not import torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from lit_hour.errors import VideoError
from lit_hour.media.animated_webp import is_animated_webp, webp_as_video
from lit_hour.media.file_structure import (
    JOINED_FAULT,
    asks_for_crop,
    explain_unreadable,
    find_structure_fault,
)
from lit_hour.media.frame_decoding import Damage, decode_frames
from lit_hour.media.orientation import find_transpose, is_sideways
from lit_hour.media.packet_times import PacketScan, TimeSource, TimestampRepair, scan_packets

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".ts", ".mts", ".m2ts", ".mpg"}
    | {".mpeg", ".vob", ".wmv", ".asf", ".ogv", ".3gp", ".mxf", ".gif", ".ivf", ".h264", ".264"}
    | {".h265", ".hevc", ".265", ".rm", ".rmvb", ".nut", ".dv", ".y4m", ".apng"}
)
MAX_MISSING_SECONDS = 1.0  # frames may be missing at the end for this long without being reported
MAX_UNREAD_SHARE = 0.1  # of the bytes of a file of `_PADDING_BYTES`
MAX_REORDERED_FRAMES = 32  # decoded to find out whether presentation times are in stored order

# Containers of video. Nothing that opens other files or the network by itself, such as playlists
# and image sequences.
VIDEO_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,gif,mxf,ivf,h264"
    ",hevc,vvc,obu,m4v,mpegvideo,h261,h263,vc1,vc1test,dirac,cavsvideo,mjpeg,mpjpeg,smjpeg,rm,nut"
    ",dv,gxf,yuv4mpegpipe,apng,amv,wtv,roq,film_cpk,swf,dnxhd,av1,evc,apv,filmstrip"
)
_OPEN_OPTIONS = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}
# Formats in which packets fill the file to its end, and the bytes of padding that may follow.
_PADDING_BYTES = {
    **dict.fromkeys(("flv", "ivf", "gif", "apng"), 0),
    **dict.fromkeys(("mpegts", "mpeg", "asf"), 65_536),
    "ogg": 65_536,  # a packet has the position of its page, which is at most so long
}
_USUAL_FORMATS = "mp4, mov, mkv, webm, avi, flv, ts, mpg, wmv, ogv, mxf, gif, ivf, h264"
# Pictures in a container that are not its film.
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_MIN_FILM_SHARE = 0.5  # of the frames of the longest stream; a shorter one is a preview


class UncroppedVideoWarning(UserWarning):
    """The frames of a video have edges that players cut off, as container metadata specifies."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of the video stream of a file.

    Attributes:
        path: of the file.
        duration_seconds: from the start of the first frame to the end of the last one.
        width: in pixels as displayed: upright, with square pixels.
        height: in pixels as displayed.
        transpose: how the stored frames become upright; None if they are.
        container: FFmpeg's name of the container format, such as "matroska,webm" or "avi".
        codec: FFmpeg's name of the codec, such as "h264" or "av1".
        first_pts: start of the first frame, in units of the stream's time base.
        time_base: of the stream, in seconds.
        stream_index: of the stream in the file.
        repair: how the timestamps of the stream become one rising line.
        fault: how the file is cut or what of it cannot be read, or empty.
    """

    path: Path
    duration_seconds: float
    width: int
    height: int
    transpose: Image.Transpose | None
    container: str
    codec: str
    first_pts: int
    time_base: Fraction
    stream_index: int
    repair: TimestampRepair
    fault: str

    def seconds(self, ticks: int) -> float:
        """Return the time of a repaired timestamp, counted from the first frame."""
        return float((ticks - self.first_pts) * self.time_base)


def probe(path: str | Path) -> VideoInfo:
    """Read the headers of all packets of a video, and decode its first frame.

    Raises:
        VideoError: the file does not exist, or holds no video that decodes.
    """
    with open_video(path) as (container, stream):
        if stream.codec_context is None:
            raise VideoError(
                f"{path} has a video stream of an unknown codec (Decoder not found). Convert it to"
                " mp4 or mkv with H.264."
            )
        scan = scan_packets(container, stream)
        index, format_name = stream.index, container.format.name
        codec = stream.codec_context.codec.canonical_name
        reorders = stream.codec_context.reorder_depth > 0
        time_base = stream.time_base or Fraction(1, av.time_base)
        fault = _find_fault(Path(path), container, stream, scan)
        pixel_ratio = stream.sample_aspect_ratio
    if not scan.num_packets:
        raise VideoError(
            f"{path} has a video stream without frames. Give a video with at least one frame."
        )
    repair, frame, first_ticks = _decode_first(path, index, scan, reorders)
    if repair.source is TimeSource.PRESENTATION:
        duration_ticks = scan.end_ticks - first_ticks
    else:  # the decoder returns the first frame after some packets
        duration_ticks = scan.end_ticks - scan.repair.first_ticks
    if duration_ticks <= 0:
        duration_ticks = repair.frame_ticks
    if asks_for_crop(Path(path)):
        warnings.warn(
            f"{path} asks players to cut the edges of its frames off. They are shown with their"
            " edges. Encode it again to cut them off.",
            UncroppedVideoWarning,
            stacklevel=2,
        )
    width, height = _displayed_size(frame, pixel_ratio)
    return VideoInfo(
        path=Path(path),
        duration_seconds=float(duration_ticks * time_base),
        width=width,
        height=height,
        transpose=find_transpose(frame),
        container=format_name,
        codec=codec,
        first_pts=first_ticks,
        time_base=time_base,
        stream_index=index,
        repair=repair,
        fault=fault,
    )


@contextmanager
def open_video(
    path: str | Path, stream_index: int | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file; a context manager that returns its container and one of its streams.

    Args:
        path: of the file.
        stream_index: of the stream. If None, the stream that holds the film: cover pictures are
            passed over, and of several videos the longer ones, among them the default one, among
            them the largest, and last the first is taken.

    Raises:
        VideoError: the file does not exist, or holds no video.
    """
    file = Path(path)
    if not file.is_file():
        fault = "is not a file" if file.exists() else "does not exist"
        raise VideoError(f"{path} {fault}. Give the path of a video file.")
    if file.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes). Give a video file.")
    if stream_index is None:
        with _open_container(file) as container:
            films = find_films(file, container)
            if len(films) == 1:
                yield container, films[0]
                return
            stream_index = _choose_film(container, films)  # which reads the packets
    with _open_container(file) as container:
        stream = container.streams[stream_index]
        assert isinstance(stream, VideoStream)
        yield container, stream


@contextmanager
def _open_container(path: Path) -> Iterator[InputContainer]:
    try:
        # FFmpeg cannot take an absolute path for a protocol such as "concat:"
        source = webp_as_video(path) if is_animated_webp(path) else str(path.absolute())
        container = av.open(source, "r", options=_OPEN_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        reason = explain_unreadable(path) or (
            f"cannot be opened as a video ({error.strerror}). Give one of {_USUAL_FORMATS}"
        )
        raise VideoError(f"{path} {reason}.") from error
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({error.strerror}).") from error
    with container:
        yield container


def find_films(path: str | Path, container: InputContainer) -> list[VideoStream]:
    """Return the video streams that are not pictures, with known codecs if there are any.

    Raises:
        VideoError: there are none.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _PICTURES]
    if not streams:
        types = sorted({stream.type for stream in container.streams} - {"video"})
        found = ", ".join(types) or "nothing"
        raise VideoError(f"{path} has no video stream, only {found}. Give a file with video.")
    # A stream of an unknown codec has no context.
    return [stream for stream in streams if stream.codec_context is not None] or streams


def _choose_film(container: InputContainer, streams: list[VideoStream]) -> int:
    """Return the index of the stream that holds the film; see `open_video`."""
    num_packets = dict.fromkeys((stream.index for stream in streams), 0)
    with suppress(av.FFmpegError):  # reported when the video is read
        for packet in container.demux(streams):
            num_packets[packet.stream_index] += packet.size > 0
    longest = max(num_packets.values())
    films = [stream for stream in streams if num_packets[stream.index] >= _MIN_FILM_SHARE * longest]
    best = max(
        films,
        key=lambda stream: (
            bool(stream.disposition & Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
            -stream.index,
        ),
    )
    return best.index


def _decode_first(
    path: str | Path, stream_index: int, scan: PacketScan, reorders: bool
) -> tuple[TimestampRepair, VideoFrame, int]:
    """Decode the first frame, and a few more if the presentation times may be wrong.

    Files that were copied from avi may have presentation times that rise in stored order although
    the decoder reorders the frames.

    Returns:
        The repair of the timestamps, the first frame, and its start.

    Raises:
        VideoError: no frame can be decoded.
    """
    repair = scan.repair
    is_suspect = reorders and not scan.is_reordered and repair.source is TimeSource.PRESENTATION
    num_frames = min(MAX_REORDERED_FRAMES, scan.num_packets) if is_suspect else 1
    with open_video(path, stream_index) as (container, stream):
        stream.codec_context.thread_count = 1
        frames: list[VideoFrame] = []
        first_ticks = 0
        for frame, ticks in decode_frames(container, stream, repair, Damage()):
            first_ticks = first_ticks if frames else ticks
            frames.append(frame)
            if len(frames) == num_frames:
                break
    if not frames:
        raise VideoError(f"No frame of {path} can be decoded. Give an intact video file.")
    pts = [frame.pts for frame in frames if frame.pts is not None]
    if pts == sorted(pts):
        return repair, frames[0], first_ticks
    repair = replace(repair, source=TimeSource.STORED_ORDER)
    return _decode_first(path, stream_index, replace(scan, repair=repair), reorders)


def _displayed_size(frame: VideoFrame, pixel_ratio: Fraction | None) -> tuple[int, int]:
    """Return width and height of an upright frame with square pixels; the height is kept."""
    ratio = Fraction(pixel_ratio or 1)
    width, height = max(round(frame.width * ratio), 1) if ratio > 0 else frame.width, frame.height
    return (height, width) if is_sideways(find_transpose(frame)) else (width, height)


def _find_fault(
    path: Path, container: InputContainer, stream: VideoStream, scan: PacketScan
) -> str:
    """Return how a file is cut, or "" if all its packets are there.

    Only an index or tags may be missing at the end of a file that is cut.
    """
    num_bytes, name = path.stat().st_size, container.format.name
    fault = find_structure_fault(path) or scan.fault
    if fault == JOINED_FAULT:
        return fault
    if name in _PADDING_BYTES:
        min_bytes = (1 - MAX_UNREAD_SHARE) * num_bytes - _PADDING_BYTES[name]
        end_bytes = scan.end_bytes if scan.end_bytes >= min_bytes else _find_ends(path)[1]
        if end_bytes < min_bytes:
            return f"only {end_bytes:,} of its {num_bytes:,} bytes can be read as one video"
    entries = stream.index_entries
    if fault and name.startswith("mov") and stream.frames == len(entries) > 0:
        end_bytes = max(entry.pos + entry.size for entry in entries)
        return fault if end_bytes > num_bytes else ""
    if fault and name.startswith("matroska") and container.duration:
        end_seconds, _ = _find_ends(path)
        time_base, duration = float(stream.time_base or 0), container.duration / av.time_base
        ends = duration, scan.repair.first_ticks * time_base + duration  # an end, or a length
        frame_seconds = scan.repair.frame_ticks * time_base
        is_complete = any(abs(end_seconds - end) < frame_seconds / 2 for end in ends)
        return "" if is_complete else fault
    return fault


def _find_ends(path: Path) -> tuple[float, int]:
    """Return the time, in seconds, and the position in the file at which its last packets end."""
    end_seconds, end_bytes = 0.0, 0
    with _open_container(path) as container, suppress(av.FFmpegError):
        for packet in container.demux():
            end_bytes = max(end_bytes, (packet.pos or 0) + packet.size)
            if packet.pts is not None and packet.time_base is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                end_seconds = max(end_seconds, end)
    return end_seconds, end_bytes
