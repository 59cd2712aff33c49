"""The packets of a video in, in the order of the file; those that have to be decoded to show given times out.

A picture that nothing refers to and that is on screen at none of the times need not be decoded, nor does what lies between
the last picture that is wanted and the next one that begins anew. The pictures that remain are decoded to the same bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Generic, TypeVar

TIME_TOLERANCE_SECONDS = 1e-6  # times this close are one time: they come from different divisions
MAX_REORDERED = 34  # H.264 lets 16 pictures wait for an earlier one, in a packet for each field, and one is being decoded
MAX_BUFFERED = 300  # packets held back; the longest usual distance between key frames is 250
_SLICES = range(1, 6)  # types of units with a piece of a picture
_IDR_SLICE = 5
_PARAMETER_SETS = (7, 8, 13, 15)

PacketT = TypeVar("PacketT")


class FrameRole(Enum):
    """What other pictures need a picture for."""

    IDR = "nothing after it needs anything before it"
    REFERENCE = "others may be predicted from it"
    DISPOSABLE = "no other picture needs it"


@dataclass(frozen=True, slots=True)
class PacketInfo(Generic[PacketT]):
    """A packet and what is known of it without decoding.

    Attributes:
        start_seconds: when its picture comes on screen; None when it never does.
        has_parameter_sets: it holds more than a picture, so that the decoder has to see it.
    """

    packet: PacketT
    start_seconds: float | None
    role: FrameRole
    has_parameter_sets: bool


class PacketFilter(Generic[PacketT]):
    """Holds packets back until it is known which of them are needed.

    Attributes:
        frame_start_seconds: for each of the first timestamps, as far as it is known, when the picture on screen then came there.
    """

    def __init__(self, timestamps: Sequence[float]) -> None:
        self.frame_start_seconds: list[float] = []
        self._known_before_seconds = (
            -inf
        )  # of pictures that start before this, no more are added to those shown
        self._timestamps = timestamps
        self._starts: list[
            float
        ] = []  # of the pictures that may be on screen at timestamps to come, in order
        self._held: list[PacketInfo[PacketT]] = []
        self._newest: deque[float] = deque(maxlen=MAX_REORDERED)

    @property
    def done(self) -> bool:
        """Whether every timestamp has its picture."""
        return len(self.frame_start_seconds) == len(self._timestamps)

    def push(self, coded: PacketInfo[PacketT]) -> list[PacketInfo[PacketT]]:
        """Take the next packet, and give back those that can go to the decoder, in order."""
        start_seconds, needed = coded.start_seconds, []
        if start_seconds is not None:
            if coded.role is FrameRole.IDR and (
                not self._starts or self._starts[-1] < start_seconds
            ):
                needed = self._settle(start_seconds)
                needed += self._release_to_last(held.has_parameter_sets for held in self._held)
                self._held.clear()  # nothing that comes later needs what is left
            insort(self._starts, start_seconds)
            self._newest.append(start_seconds)
        self._held.append(coded)
        if len(self._newest) == MAX_REORDERED:
            needed += self._settle(min(self._newest))
        if len(self._held) > MAX_BUFFERED:
            needed += self._release(len(self._held))
        return needed

    def flush(self) -> list[PacketInfo[PacketT]]:
        """There are no more packets: the last picture stays on screen."""
        return self._settle(inf)

    def is_shown(self, coded: PacketInfo[PacketT]) -> bool | None:
        """Whether a picture is on screen at one of the timestamps; None as long as it is not known."""
        seconds = coded.start_seconds
        if seconds is None:
            return False
        place = bisect_left(self.frame_start_seconds, seconds)
        if place < len(self.frame_start_seconds) and self.frame_start_seconds[place] == seconds:
            return True
        return False if seconds < self._known_before_seconds else None

    def _settle(self, before_seconds: float) -> list[PacketInfo[PacketT]]:
        """Every picture that starts before this is known: find what the timestamps before it show."""
        first = len(self.frame_start_seconds)
        while self._starts and not self.done:
            seconds = self._timestamps[len(self.frame_start_seconds)]
            if seconds >= before_seconds - TIME_TOLERANCE_SECONDS:
                break
            last = max(bisect_right(self._starts, seconds + TIME_TOLERANCE_SECONDS) - 1, 0)
            self.frame_start_seconds.append(self._starts[last])
            del self._starts[:last]
        num_known = bisect_left(self._starts, before_seconds)
        if self.done:
            self._known_before_seconds = inf
        elif num_known:
            self._known_before_seconds = self._starts[
                num_known - 1
            ]  # the last one may stay on screen
        if len(self.frame_start_seconds) == first:
            return []
        shown = set(self.frame_start_seconds[first:])
        return self._release_to_last(coded.start_seconds in shown for coded in self._held)

    def _release_to_last(self, wanted: Iterable[bool]) -> list[PacketInfo[PacketT]]:
        return self._release(
            max((place for place, is_wanted in enumerate(wanted, 1) if is_wanted), default=0)
        )

    def _release(self, num_packets: int) -> list[PacketInfo[PacketT]]:
        """The first packets that are held, without the disposable ones that no timestamp shows."""
        released, self._held = self._held[:num_packets], self._held[num_packets:]
        return [coded for coded in released if self._is_needed(coded)]

    def _is_needed(self, coded: PacketInfo[PacketT]) -> bool:
        """Whether a packet among needed ones is needed too: it may be on screen at a timestamp, or others refer to it."""
        if coded.has_parameter_sets or coded.role is not FrameRole.DISPOSABLE:
            return True
        start_seconds = coded.start_seconds
        if start_seconds is None:
            return False
        place = bisect_left(self._timestamps, start_seconds - TIME_TOLERANCE_SECONDS)
        if place < len(self.frame_start_seconds):
            return self.frame_start_seconds[place] == start_seconds
        if place == len(self._timestamps):
            return False
        later = bisect_right(self._starts, start_seconds)
        return (
            later == len(self._starts)
            or self._starts[later] > self._timestamps[place] + TIME_TOLERANCE_SECONDS
        )


def parse_h264_packet(data: memoryview, length_bytes: int) -> tuple[FrameRole, bool]:
    """What a packet of H.264 is needed for, and whether it holds parameter sets, read off the headers of its units.

    Args:
        data: the packet.
        length_bytes: size of the length before each unit; 0 for units between start codes.

    Source: ITU-T H.264, 7.3.1 and 7.4.1 (nal_ref_idc, nal_unit_type), Annex B; ISO/IEC 14496-15 (lengths).
    """
    has_parameters = False
    headers = (
        _headers_with_lengths(data, length_bytes)
        if length_bytes
        else _headers_with_start_codes(bytes(data))
    )
    for header in headers:
        unit_type = header & 31
        has_parameters |= unit_type in _PARAMETER_SETS
        if unit_type == _IDR_SLICE:
            return FrameRole.IDR, has_parameters
        if unit_type in _SLICES:
            return FrameRole.REFERENCE if header >> 5 & 3 else FrameRole.DISPOSABLE, has_parameters
    return FrameRole.REFERENCE, True  # no picture in it


def _headers_with_lengths(data: memoryview, length_bytes: int) -> Iterator[int]:
    place = 0
    while place + length_bytes < len(data):
        yield data[place + length_bytes]
        place += length_bytes + int.from_bytes(data[place : place + length_bytes], "big")


def _headers_with_start_codes(data: bytes) -> Iterator[int]:
    place = data.find(b"\0\0\1")
    while 0 <= place < len(data) - 3:
        yield data[place + 3]
        place = data.find(b"\0\0\1", place + 3)
