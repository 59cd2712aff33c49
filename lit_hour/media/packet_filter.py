"""Select the packets that must be decoded to get the frames on screen at given times.

`PacketFilter` drops disposable frames (no other frame refers to them) that are on screen at none of
the times, and everything between the last wanted frame of a GOP and the next IDR frame. The
remaining frames decode to the same bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Generic, TypeVar

TIME_TOLERANCE_SECONDS = 1e-6  # for equal times that come from different divisions
# H.264 reorders up to 16 frames, each in up to two packets (fields), plus the frame being decoded.
MAX_REORDERED = 34
MAX_BUFFERED = 300  # packets; the usual largest keyframe interval is 250
_SLICE_TYPES = range(1, 6)  # NAL unit types that hold a slice of a frame
_IDR_SLICE_TYPE = 5
_PARAMETER_SET_TYPES = (7, 8, 13, 15)

PacketT = TypeVar("PacketT")


class FrameRole(Enum):
    """Which other frames depend on a frame."""

    IDR = "no later frame refers to an earlier one"
    REFERENCE = "other frames may be predicted from it"
    DISPOSABLE = "no other frame refers to it"


@dataclass(frozen=True, slots=True)
class PacketInfo(Generic[PacketT]):
    """A packet with the information in its headers.

    Attributes:
        start_seconds: presentation time of its frame; None if the frame is never shown.
        has_parameter_sets: it holds more than a frame, so it must reach the decoder.
    """

    packet: PacketT
    start_seconds: float | None
    role: FrameRole
    has_parameter_sets: bool


class PacketFilter(Generic[PacketT]):
    """Buffers packets until it is known which of them are needed.

    Attributes:
        frame_start_seconds: for each of the first timestamps, as far as it is known, the start of
            the frame on screen.
        done: true when the frame of every timestamp is known.
    """

    def __init__(self, timestamps: Sequence[float]) -> None:
        self.frame_start_seconds: list[float] = []
        self.done = not timestamps
        self._decided_before_seconds = -inf  # for frames that start earlier, `is_shown` is known
        self._timestamps = timestamps
        # Sorted starts of the frames that may be on screen at later timestamps.
        self._starts: list[float] = []
        self._buffer: list[PacketInfo[PacketT]] = []
        self._newest: deque[float] = deque(maxlen=MAX_REORDERED)

    def push(self, packet: PacketInfo[PacketT]) -> list[PacketInfo[PacketT]]:
        """Buffer the next packet and return, in order, those that the decoder needs."""
        start_seconds, needed = packet.start_seconds, []
        if start_seconds is not None:
            is_latest = not self._starts or self._starts[-1] < start_seconds
            if packet.role is FrameRole.IDR and is_latest:
                needed = self.decide(start_seconds)
                needed += self._release([info.has_parameter_sets for info in self._buffer])
                self._buffer.clear()  # no later packet refers to these
            insort(self._starts, start_seconds)
            self._newest.append(start_seconds)
        self._buffer.append(packet)
        if len(self._newest) == MAX_REORDERED:
            needed += self.decide(min(self._newest))
        if len(self._buffer) > MAX_BUFFERED:
            needed += self._release([True] * len(self._buffer))
        return needed

    def decide(self, before_seconds: float) -> list[PacketInfo[PacketT]]:
        """Find the frames on screen at the timestamps before a time, and return their packets.

        Args:
            before_seconds: every frame that starts before this time has been pushed; infinite at
                the end of the video, whose last frame stays on screen.

        Returns:
            In order, the packets that the decoder needs for these frames.
        """
        first = len(self.frame_start_seconds)
        while self._starts and not self.done:
            seconds = self._timestamps[len(self.frame_start_seconds)]
            if seconds >= before_seconds - TIME_TOLERANCE_SECONDS:
                break
            last = max(bisect_right(self._starts, seconds + TIME_TOLERANCE_SECONDS) - 1, 0)
            self.frame_start_seconds.append(self._starts[last])
            self.done = len(self.frame_start_seconds) == len(self._timestamps)
            del self._starts[:last]
        num_known = bisect_left(self._starts, before_seconds)
        if self.done:
            self._decided_before_seconds = inf
        elif num_known:
            # The last known frame may still be on screen at the next timestamp.
            self._decided_before_seconds = self._starts[num_known - 1]
        if len(self.frame_start_seconds) == first:
            return []
        shown = set(self.frame_start_seconds[first:])
        return self._release([packet.start_seconds in shown for packet in self._buffer])

    def is_shown(self, packet: PacketInfo[PacketT]) -> bool | None:
        """Return whether a frame is on screen at one of the timestamps; None if not yet known."""
        seconds = packet.start_seconds
        if seconds is None:
            return False
        index = bisect_left(self.frame_start_seconds, seconds)
        if index < len(self.frame_start_seconds) and self.frame_start_seconds[index] == seconds:
            return True
        return False if seconds < self._decided_before_seconds else None

    def _release(self, is_wanted: list[bool]) -> list[PacketInfo[PacketT]]:
        """Empty the buffer up to the last wanted packet, and return the needed ones of these."""
        num_packets = len(is_wanted) - is_wanted[::-1].index(True) if any(is_wanted) else 0
        released, self._buffer = self._buffer[:num_packets], self._buffer[num_packets:]
        return [packet for packet in released if self._is_needed(packet)]

    def _is_needed(self, packet: PacketInfo[PacketT]) -> bool:
        """Return False for a disposable frame that is on screen at no timestamp."""
        if packet.has_parameter_sets or packet.role is not FrameRole.DISPOSABLE:
            return True
        start_seconds = packet.start_seconds
        if start_seconds is None:
            return False
        index = bisect_left(self._timestamps, start_seconds - TIME_TOLERANCE_SECONDS)
        if index < len(self.frame_start_seconds):
            return self.frame_start_seconds[index] == start_seconds
        if index == len(self._timestamps):
            return False
        # Not decided yet: it may be shown unless a known later frame covers the timestamp.
        later = bisect_right(self._starts, start_seconds)
        return (
            later == len(self._starts)
            or self._starts[later] > self._timestamps[index] + TIME_TOLERANCE_SECONDS
        )


def parse_h264_packet(data: memoryview, length_size: int) -> tuple[FrameRole, bool]:
    """Return the role of an H.264 packet's frame, and whether the packet holds parameter sets.

    Args:
        data: the packet; only the headers of its NAL units are read.
        length_size: bytes of the length before each NAL unit; 0 for units between start codes.

    Source: ITU-T H.264, 7.3.1 and 7.4.1 (nal_ref_idc, nal_unit_type), Annex B;
    ISO/IEC 14496-15 (lengths).
    """
    has_parameters = False
    headers = (
        _headers_with_lengths(data, length_size)
        if length_size
        else _headers_with_start_codes(bytes(data))
    )
    for header in headers:
        unit_type = header & 31
        has_parameters |= unit_type in _PARAMETER_SET_TYPES
        if unit_type == _IDR_SLICE_TYPE:
            return FrameRole.IDR, has_parameters
        if unit_type in _SLICE_TYPES:
            return FrameRole.REFERENCE if header >> 5 & 3 else FrameRole.DISPOSABLE, has_parameters
    return FrameRole.REFERENCE, True  # no frame in it


def _headers_with_lengths(data: memoryview, length_size: int) -> Iterator[int]:
    offset = 0
    while offset + length_size < len(data):
        yield data[offset + length_size]
        offset += length_size + int.from_bytes(data[offset : offset + length_size], "big")


def _headers_with_start_codes(data: bytes) -> Iterator[int]:
    offset = data.find(b"\0\0\1")
    while 0 <= offset < len(data) - 3:
        yield data[offset + 3]
        offset = data.find(b"\0\0\1", offset + 3)
