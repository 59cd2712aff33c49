"""Packets of a live stream, with timestamps that are repaired as they arrive.

`repair_live_packets` applies the rules of `scan_packets`, which reads a whole file first. This
module must not import torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from lit_hour.media.packet_times import (
    DEFAULT_FRAME_RATE,
    JOINABLE_CONTAINERS,
    MAX_FORWARD_SECONDS,
    MAX_REORDERED,
    MIN_BACKWARD_SECONDS,
    NO_TIMESTAMPS,
    UNTIMED_CONTAINERS,
    TimeSource,
    TimestampRepair,
    VideoPacket,
    holds_frame,
)

MAX_GAP_SECONDS = 3600.0  # in other containers than `JOINABLE_CONTAINERS`; a longer one is damage


class PacketClock:
    """Makes the timestamps of packets one rising line, one packet at a time.

    Attributes:
        repair: the source of the times, and the duration of a frame that has none.
        first_ticks: time of the first packet, in units of the time base; None before.
        end_ticks: end of the last frame so far.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        """Choose the timestamps to use; nothing is read."""
        self._time_base = stream.time_base or Fraction(1, av.time_base)
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE
        source = TimeSource.PRESENTATION
        if container.format.flags & NO_TIMESTAMPS:
            source = TimeSource.COUNT
        elif container.format.name in UNTIMED_CONTAINERS:
            source = TimeSource.DECODING
        self.repair = TimestampRepair(source, 0, max(round(1 / (rate * self._time_base)), 1))
        is_joinable = container.format.name in JOINABLE_CONTAINERS
        self._max_step_seconds = MAX_FORWARD_SECONDS if is_joinable else MAX_GAP_SECONDS
        self.first_ticks: int | None = None
        self.end_ticks = self._offset_ticks = 0
        self._orders: deque[int] = deque(maxlen=MAX_REORDERED + 1)  # of the packets before

    def apply(self, packet: VideoPacket) -> None:
        """Repair the timestamps of the next packet in place."""
        if self.repair.source is TimeSource.COUNT:
            self.first_ticks = 0
            packet.pts, packet.dts = None, self.end_ticks
            self.end_ticks += self._duration_ticks(packet)
            return
        uses_pts = self.repair.source is TimeSource.PRESENTATION
        ticks = packet.pts if uses_pts else packet.dts
        order = packet.dts
        if order is None and packet.is_keyframe:
            order = packet.pts
        if order is not None and not packet.is_discard:
            if self._starts_again(order, packet.is_keyframe):
                self._offset_ticks = self.end_ticks - (order if ticks is None else ticks)
                self._orders.clear()
            self._orders.append(order)
        if packet.pts is not None:
            packet.pts += self._offset_ticks
            gap_seconds = (packet.pts - self.end_ticks) * self._time_base
            if self.first_ticks is not None and gap_seconds > MAX_GAP_SECONDS:
                packet.pts = ticks = None  # the frame follows the one before it
        if packet.dts is not None:
            packet.dts += self._offset_ticks
        if ticks is not None and not packet.is_discard:
            if self.first_ticks is None:
                self.first_ticks = self.end_ticks = ticks
            end_ticks = ticks + self._offset_ticks + self._duration_ticks(packet)
            self.end_ticks = max(self.end_ticks, end_ticks)

    def _duration_ticks(self, packet: VideoPacket) -> int:
        """Return the duration of a packet, or of a frame if it has none or an absurd one."""
        ticks = packet.duration or 0
        is_valid = 0 < ticks * self._time_base <= MAX_GAP_SECONDS
        return ticks if is_valid else self.repair.frame_ticks

    def _starts_again(self, order: int, is_keyframe: bool) -> bool:
        """Return whether the timestamps start again; see `packet_times`."""
        if not self._orders:
            return False
        step_seconds = (order - self._orders[-1]) * self._time_base
        if step_seconds > self._max_step_seconds:
            return True
        if is_keyframe:
            return step_seconds < 0
        return step_seconds < -MIN_BACKWARD_SECONDS and order <= min(self._orders)


def repair_live_packets(
    container: InputContainer, packets: Iterable[VideoPacket], clock: PacketClock
) -> Iterator[VideoPacket]:
    """Yield the packets that hold frames, with repaired timestamps.

    An empty packet stands for a frame that is the same as the one before it; the decoder would
    take it for the end of the video.
    """
    for packet in packets:
        if holds_frame(packet, container.format):
            clock.apply(packet)
            yield packet
