"""Read the headers of all packets of a video stream, and make their timestamps one rising line.

`scan_packets` reads a file once and finds out how to repair its timestamps; `read_packets` yields
the packets with repaired timestamps. `README.md` has the rules. This module must not import torch.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from typing import TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.format import ContainerFormat
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

VideoPacket: TypeAlias = "Packet[VideoStream]"
Ticks: TypeAlias = NDArray[np.int64]

MIN_BACKWARD_SECONDS = 0.1  # a smaller step back is jitter; FFmpeg has the same limit
MAX_FORWARD_SECONDS = 10.0  # a longer step is a join in `JOINABLE_CONTAINERS`; as in FFmpeg
JOINABLE_CONTAINERS = ("mpegts", "mpeg")  # for which FFmpeg closes gaps, too
MAX_EQUAL_TIMES = 4  # packets of one frame: two fields, or a hidden and a shown frame
MAX_REORDERED = 34  # packets; see `packet_filter`
DEFAULT_FRAME_RATE = 25  # FFmpeg's for streams that do not say theirs
# FFmpeg guesses their presentation times: they store one time for each packet, in stored order.
UNTIMED_CONTAINERS = ("avi", "asf", "gxf")
NO_TIMESTAMPS = 0x80  # FFmpeg's flag AVFMT_NOTIMESTAMPS of formats such as raw H.264
_NONE = -(2**63)
_OGG_HEADERS = (b"OVP80", b"\x80theora", b"\x81theora", b"\x82theora")


class TimeSource(Enum):
    """Which timestamps of a stream give the times of its frames."""

    PRESENTATION = "presentation times, stored with each packet"
    DECODING = "decoding times: frames are shown in the order in which the decoder returns them"
    STORED_ORDER = "presentation times that rise in stored order although frames are reordered"
    COUNT = "none: frames follow one another at the frame rate"


@dataclass(frozen=True)
class TimestampRepair:
    """Repair of the timestamps of a stream, which makes them one rising line.

    Attributes:
        source: the timestamps to use.
        first_ticks: start of the first packet's frame, in units of the stream's time base.
        frame_ticks: duration of a frame that has none.
        restarts: for each packet at which the timestamps start again, its number among the packets
            that are not empty, and the ticks to add to it and the following ones.
    """

    source: TimeSource
    first_ticks: int
    frame_ticks: int
    restarts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class PacketScan:
    """Timestamps and faults of the packets of a stream.

    Attributes:
        repair: how to repair their timestamps.
        num_packets: packets that are not empty.
        end_ticks: end of the last frame.
        end_bytes: position in the file at which the last packet ends, 0 if unknown.
        is_reordered: the presentation times do not rise in stored order.
        fault: why the packets end early, or empty.
    """

    repair: TimestampRepair
    num_packets: int
    end_ticks: int
    end_bytes: int
    is_reordered: bool
    fault: str


def scan_packets(container: InputContainer, stream: VideoStream) -> PacketScan:
    """Read the headers of all packets of a stream; nothing is decoded."""
    pts, dts, durations, flags = array("q"), array("q"), array("q"), array("b")
    fault, is_corrupt, end_bytes = "", False, 0
    try:
        for packet in container.demux(stream):
            if holds_frame(packet, container.format):
                pts.append(_NONE if packet.pts is None else packet.pts)
                dts.append(_NONE if packet.dts is None else packet.dts)
                durations.append(packet.duration or 0)
                flags.append(packet.is_keyframe + 2 * packet.is_discard)
                is_corrupt = packet.is_corrupt
                end_bytes = max(end_bytes, (packet.pos or 0) + packet.size)
    except av.FFmpegError as error:
        fault = f"it cannot be read behind {len(pts)} packets ({error.strerror})"
    if is_corrupt and not fault and container.format.name not in JOINABLE_CONTAINERS:
        fault = "it ends inside a frame"
    time_base = stream.time_base or Fraction(1, av.time_base)
    rate = stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE
    frame_ticks = max(round(1 / (rate * time_base)), 1)
    scan = _analyze(
        np.array(pts, np.int64),
        np.array(dts, np.int64),
        np.array(durations, np.int64),
        np.array(flags, np.int64),
        container.format,
        time_base,
        frame_ticks,
    )
    return replace(scan, fault=fault, end_bytes=end_bytes)


def _analyze(
    pts: Ticks,
    dts: Ticks,
    durations: Ticks,
    flags: Ticks,
    container_format: ContainerFormat,
    time_base: Fraction,
    frame_ticks: int,
) -> PacketScan:
    """Choose the source of time, and find the packets at which timestamps start again."""
    if not len(pts):
        return PacketScan(TimestampRepair(TimeSource.COUNT, 0, frame_ticks), 0, 0, 0, False, "")
    has_pts, has_dts = pts != _NONE, dts != _NONE
    is_reordered = bool(has_pts.any() and (np.diff(pts[has_pts]) < 0).any())
    source = _choose_source(pts, dts, container_format)
    if source is TimeSource.COUNT:
        steps = np.where(durations > 0, durations, frame_ticks)
        end = int(steps.sum())
        return PacketScan(
            TimestampRepair(source, 0, frame_ticks), len(pts), end, 0, is_reordered, ""
        )
    times, is_known = (pts, has_pts) if source is TimeSource.PRESENTATION else (dts, has_dts)
    is_shown = is_known & (flags < 2) if (flags < 2).any() else is_known
    order, is_ordered = (dts, has_dts) if has_dts.any() else (pts, has_pts & (flags % 2 == 1))
    starts = _find_restarts(order, is_ordered & is_shown, flags, container_format.name, time_base)
    restarts: list[tuple[int, int]] = []
    first = end = offset = 0
    for number, next_number in zip([0, *starts], [*starts, len(times)], strict=True):
        inside = np.flatnonzero(is_shown[number:next_number]) + number
        if not len(inside):
            continue
        part = times[inside]
        last = int(part.max())
        duration = int(durations[inside[int(part.argmax())]])
        if duration <= 0:
            earlier = part[part < last]
            duration = last - int(earlier.max()) if len(earlier) else frame_ticks
        if number:
            offset = end - int(part.min())
            restarts.append((number, offset))
        else:
            first = int(part.min())
        end = last + duration + offset
    repair = TimestampRepair(source, first, frame_ticks, tuple(restarts))
    return PacketScan(repair, len(pts), end, 0, is_reordered, "")


def _choose_source(pts: Ticks, dts: Ticks, container_format: ContainerFormat) -> TimeSource:
    has_pts, has_dts = pts != _NONE, dts != _NONE
    is_timed = container_format.name not in UNTIMED_CONTAINERS and has_pts.mean() > 0.5
    times = pts[has_pts] if is_timed else dts[has_dts]
    if container_format.flags & NO_TIMESTAMPS or _stand_still(times):
        return TimeSource.COUNT
    return TimeSource.PRESENTATION if is_timed else TimeSource.DECODING


def _stand_still(times: Ticks) -> bool:
    """Return whether times are missing, or equal for several packets in a row."""
    num_equal = MAX_EQUAL_TIMES
    return not len(times) or bool((times[num_equal:] == times[:-num_equal]).any())


def _find_restarts(
    order: Ticks,
    is_ordered: NDArray[np.bool_],
    flags: Ticks,
    container_name: str,
    time_base: Fraction,
) -> list[int]:
    """Return the numbers of the packets at which the timestamps start again."""
    numbers = np.flatnonzero(is_ordered)
    ordered = order[numbers]
    steps = np.diff(ordered)
    is_keyframe = flags[numbers[1:]] % 2 == 1
    is_restart = is_keyframe & (steps < 0)
    for index in np.flatnonzero(~is_keyframe & (steps < -MIN_BACKWARD_SECONDS / time_base)):
        # Decoding times are not always in order, but never further back than frames are reordered.
        is_restart[index] = (
            ordered[index + 1] <= ordered[max(index - MAX_REORDERED, 0) : index + 1].min()
        )
    if container_name in JOINABLE_CONTAINERS:
        is_restart |= steps > MAX_FORWARD_SECONDS / time_base
    return [int(number) for number in numbers[1:][is_restart]]


def holds_frame(packet: VideoPacket, container_format: ContainerFormat) -> bool:
    """Return whether a packet is not empty, nor a header at the start of a joined ogg."""
    if container_format.name != "ogg":
        return packet.size > 0
    return packet.size > 0 and not bytes(memoryview(packet)[:7]).startswith(_OGG_HEADERS)


def read_packets(
    container: InputContainer, stream: VideoStream, repair: TimestampRepair
) -> Iterator[VideoPacket]:
    """Yield the packets of a stream that hold frames, with repaired timestamps.

    An empty packet stands for a frame that is the same as the one before it; the decoder would
    take it for the end of the video.
    """
    restarts, offset, count_ticks = dict(repair.restarts), 0, 0
    number = 0
    for packet in container.demux(stream):
        if not holds_frame(packet, container.format):
            continue
        offset = restarts.get(number, offset)
        number += 1
        if repair.source is TimeSource.COUNT:
            packet.pts, packet.dts = None, count_ticks
            count_ticks += packet.duration or repair.frame_ticks
        elif repair.source is TimeSource.STORED_ORDER:
            packet.dts = packet.pts
        if offset:
            packet.pts = None if packet.pts is None else packet.pts + offset
            packet.dts = None if packet.dts is None else packet.dts + offset
        yield packet
