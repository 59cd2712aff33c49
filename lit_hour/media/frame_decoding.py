"""Decode all frames of a video stream, one after the other, with their times.

`decode_frames` is what every faster way of reading must equal. This module must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lit_hour.media.packet_times import TimeSource, TimestampRepair, VideoPacket, read_packets


@dataclass
class Damage:
    """Packets that could not be decoded.

    Attributes:
        num_packets: their number so far.
        is_at_end: no frame has been decoded after the last one of them.
    """

    num_packets: int = 0
    is_at_end: bool = False


def decode_frames(
    container: InputContainer, stream: VideoStream, repair: TimestampRepair, damage: Damage
) -> Iterator[tuple[VideoFrame, int]]:
    """Yield every frame of a file in the order of display with its start; see `decode_packets`.

    Args:
        container: the open file.
        stream: of the file, its decoder not yet open.
        repair: of the stream.
        damage: updated while frames are decoded.
    """
    return decode_packets(read_packets(container, stream, repair), stream, repair, damage)


def decode_packets(
    packets: Iterable[VideoPacket], stream: VideoStream, repair: TimestampRepair, damage: Damage
) -> Iterator[tuple[VideoFrame, int]]:
    """Yield every frame in the order of display with its start, in units of the time base.

    A packet that cannot be decoded costs its own frame. With several threads it may cost the frames
    that are being decoded, too. Starts never fall: a frame whose timestamp is missing or earlier
    than that of the frame before it follows that frame.

    Args:
        packets: of the stream, with repaired timestamps.
        stream: its decoder not yet open.
        repair: of the stream.
        damage: updated while frames are decoded.
    """
    clock = _FrameClock(repair)
    context = stream.codec_context
    remaining: Iterator[VideoPacket | None] = chain(packets, (None,))
    while True:
        try:
            packet = next(remaining)
        except StopIteration:
            return
        except av.FFmpegError:
            damage.num_packets, damage.is_at_end = damage.num_packets + 1, True
            remaining = iter((None,))  # the container cannot be read further
            continue
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            damage.num_packets, damage.is_at_end = damage.num_packets + 1, True
            continue
        for frame in frames:
            damage.is_at_end = False
            yield frame, clock.start_ticks(frame)


class _FrameClock:
    """Gives frames, in the order of display, times that do not fall."""

    def __init__(self, repair: TimestampRepair) -> None:
        self._uses_pts = repair.source is TimeSource.PRESENTATION
        self._next, self._last = repair.first_ticks, repair.first_ticks
        self._frame_ticks, self._is_first = repair.frame_ticks, True

    def start_ticks(self, frame: VideoFrame) -> int:
        """Return the start of the next frame."""
        ticks = frame.pts if self._uses_pts else frame.dts
        if ticks is None:
            ticks = self._next
        if not self._is_first and ticks <= self._last:
            # A packet may make the decoder return several frames that it delayed.
            ticks = self._last if self._uses_pts else self._next
        self._is_first, self._last = False, ticks
        self._next = ticks + (frame.duration or self._frame_ticks)
        return ticks
