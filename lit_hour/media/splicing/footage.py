"""Index the frames and closed GOPs of a video, so that parts of it can be copied.

`index_footage` is the entry point. Times are in ticks of 1/90,000 s from the first frame, the clock
of MPEG, to which the time bases of all files are converted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, chain, islice, pairwise, takewhile
from pathlib import Path
from typing import TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from lit_hour.errors import VideoError
from lit_hour.media.orientation import find_transpose
from lit_hour.media.packet_filter import FrameRole, parse_h264_packet
from lit_hour.media.video_probe import open_video

TICKS_PER_SECOND = 90_000
PIXEL_FORMAT = "yuv420p"  # the only format that all browsers show

VideoPacket: TypeAlias = "Packet[VideoStream]"


@dataclass(frozen=True)
class FrameSize:
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Footage:
    """A video with packets that can be copied: H.264 in closed GOPs, upright, with square pixels.

    Attributes:
        path: of the file.
        size: of its frames.
        starts: start of each frame, in ticks and in the order of display; the first is 0.
        end: end of the last frame, in ticks.
        gop_frames: number of the first frame of each closed GOP.
        gop_pts: presentation time of that frame in the time base of the file.
        time_base: of the file, in seconds.
        delay: ticks by which the decoder must be ahead of the display, because of B-frames.
    """

    path: Path
    size: FrameSize
    starts: tuple[int, ...]
    end: int
    gop_frames: tuple[int, ...]
    gop_pts: tuple[int, ...]
    time_base: Fraction
    delay: int

    @property
    def num_frames(self) -> int:
        """Return the number of frames."""
        return len(self.starts)

    @property
    def longest_frame(self) -> int:
        """Return the ticks for which the most lasting frame is displayed."""
        return max(later - earlier for earlier, later in pairwise((*self.starts, self.end)))

    def ticks_of(self, pts: int) -> int:
        """Convert a presentation time of the file."""
        return to_ticks(pts - self.gop_pts[0], self.time_base)

    def start_of(self, frame: int) -> int:
        """Return the start of a frame in ticks; of the frame behind the last one, the end."""
        return self.starts[frame] if frame < self.num_frames else self.end

    def frame_at(self, ticks: int) -> int:
        """Return the number of the first frame that starts at a time or later."""
        return bisect_left(self.starts, ticks)

    def gop_of(self, frame: int) -> int:
        """Return the number of the GOP that holds a frame."""
        return bisect_right(self.gop_frames, frame) - 1

    def gop_range(self, gop: int) -> tuple[int, int]:
        """Return the numbers of the first frame of a GOP and of the first frame behind it."""
        ends = (*self.gop_frames[1:], self.num_frames)
        return self.gop_frames[gop], ends[gop]


class UncopyableError(VideoError):
    """The packets of a video cannot be copied; the message is the reason alone."""


def index_footage(path: Path) -> Footage:
    """Read the headers of all packets of a video, without decoding a frame.

    Raises:
        UncopyableError: the file is intact as far as its headers tell, but has to be encoded again.
        VideoError: the file does not exist, or is not a video.
    """
    with open_video(path) as (container, stream):
        _check_stream(container, stream)
        time_base = Fraction(stream.time_base or 0)
        length_size = nal_length_size(stream)
        shown: list[int] = []  # presentation times in decoding order
        last_duration = 0
        idr: list[int] = []  # indices of IDR frames in `shown`
        try:
            for packet in container.demux(stream):
                if packet.size == 0:  # PyAV's flush packet at the end
                    break
                if packet.pts is None or packet.is_discard or packet.is_corrupt:
                    raise UncopyableError("it has packets without a frame to display")
                if packet.is_keyframe:
                    role, has_parameters = parse_h264_packet(memoryview(packet), length_size)
                    if role is FrameRole.IDR and (length_size or has_parameters):
                        idr.append(len(shown))
                if not shown or packet.pts >= max(shown[-1], shown[0]):
                    last_duration = packet.duration or 0
                shown.append(packet.pts)
        except av.FFmpegError as error:
            raise VideoError(f"{path} cannot be read to its end ({error.strerror}).") from error
    return _build_index(path, FrameSize(stream.width, stream.height), shown, idr, time_base,
                        last_duration)  # fmt: skip


def _check_stream(container: InputContainer, stream: VideoStream) -> None:
    """Raise an UncopyableError if the header of a video rules copying out."""
    codec = stream.codec_context
    ratio = stream.sample_aspect_ratio  # of the container, or else of the codec
    if codec.codec.canonical_name != "h264":
        raise UncopyableError(f"its codec is {codec.codec.canonical_name}, not h264")
    if codec.pix_fmt != PIXEL_FORMAT:
        raise UncopyableError(f"its pixel format is {codec.pix_fmt}, not {PIXEL_FORMAT}")
    if ratio not in (None, 0, 1):
        raise UncopyableError(f"its pixels are not square but {ratio}")
    frame = next(container.decode(stream), None)
    if frame is None or find_transpose(frame) is not None or frame.interlaced_frame:
        raise UncopyableError("its frames are rotated, mirrored or interlaced")
    container.seek(0)


def _build_index(
    path: Path,
    size: FrameSize,
    shown: list[int],
    idr: list[int],
    time_base: Fraction,
    last_duration: int,
) -> Footage:
    """Build the index from presentation times in decoding order."""
    in_order = sorted(shown)
    if not shown or idr[:1] != [0] or in_order[0] != shown[0]:
        raise UncopyableError("it does not begin with an IDR frame")
    highest_before = list(accumulate(shown, max))
    if any(index and highest_before[index - 1] >= shown[index] for index in idr):
        raise UncopyableError("its timestamps start again")
    lowest_from = list(accumulate(reversed(shown), min))[::-1]
    closed = [index for index in idr if lowest_from[index] == shown[index]]
    ticks = [to_ticks(pts - shown[0], time_base) for pts in shown]
    starts = sorted(ticks)
    if any(earlier == later for earlier, later in pairwise(starts)):
        raise UncopyableError("two of its frames start at the same time")
    last_ticks = to_ticks(last_duration, time_base) or (
        starts[-1] - starts[-2] if len(starts) > 1 else TICKS_PER_SECOND // 25
    )
    return Footage(
        path,
        size,
        tuple(starts),
        starts[-1] + last_ticks,
        tuple(closed),  # each frame before a closed GOP is decoded and displayed before it
        tuple(shown[index] for index in closed),
        time_base,
        max(in_time - own for in_time, own in zip(starts, ticks, strict=True)),
    )


def to_ticks(pts: int, time_base: Fraction) -> int:
    """Convert a presentation time from the time base of a file."""
    return round(pts * time_base * TICKS_PER_SECOND)


def nal_length_size(stream: VideoStream) -> int:
    """Return the bytes of the length before each NAL unit; 0 for units between start codes."""
    extradata = stream.codec_context.extradata or b""
    return (extradata[4] & 3) + 1 if extradata[:1] == b"\1" else 0


def read_gops(
    container: InputContainer, stream: VideoStream, footage: Footage, first_gop: int, end_gop: int
) -> Iterator[list[VideoPacket]]:
    """Yield the packets of consecutive GOPs in decoding order, a list for each GOP.

    Raises:
        VideoError: the file has changed since it was indexed.
    """
    first_pts = footage.gop_pts[first_gop]
    container.seek(first_pts, stream=stream)
    if (packets := _packets_from(container, stream, first_pts)) is None:
        container.seek(0)  # a container without an index may have led past it
        packets = _packets_from(container, stream, first_pts)
    for gop in range(first_gop, end_gop):
        first_frame, end_frame = footage.gop_range(gop)
        group = list(islice(packets or (), end_frame - first_frame))
        if len(group) < end_frame - first_frame:
            raise VideoError(f"{footage.path} has changed. Run the command again.")
        yield group


def _packets_from(
    container: InputContainer, stream: VideoStream, pts: int
) -> Iterator[VideoPacket] | None:
    """Return the packets from one with this presentation time on, or None if it is not ahead."""
    packets = takewhile(lambda packet: packet.size, container.demux(stream))
    for packet in packets:
        if packet.pts == pts:
            return chain((packet,), packets)
        if packet.is_keyframe and packet.pts is not None and packet.pts > pts:
            return None
    return None
