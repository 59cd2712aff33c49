"""Iterate over the frames of a video.

`iterate_frames` decodes all of them; `SelectiveFrameIterator` returns the images on screen at given
times and decodes only the packets that they need.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lit_hour.errors import VideoError
from lit_hour.media.gop_decoder import PacketBatch, decode_batches
from lit_hour.media.packet_filter import FrameRole, PacketFilter, PacketInfo, parse_h264_packet
from lit_hour.media.video_probe import (
    MAX_MISSING_SECONDS,
    NO_TIMESTAMPS_MESSAGE,
    VideoInfo,
    open_video,
)

_WITH_PRESENTATION_TIMES = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv")

ImageT = TypeVar("ImageT")


@dataclass
class ReadableRange:
    """The part of a video that could be read.

    Attributes:
        last_start_seconds: start of the last frame that was decoded.
        end_seconds: its end; infinite for an intact file, whose last frame stays on screen.
    """

    last_start_seconds: float = 0.0
    end_seconds: float = 0.0


def iterate_frames(info: VideoInfo, readable: ReadableRange) -> Iterator[tuple[VideoFrame, float]]:
    """Decode every frame and yield it with the time at which it leaves the screen, in seconds.

    Args:
        info: the result of `probe`.
        readable: updated while frames are decoded; complete when the iterator ends.

    Raises:
        VideoError: no frame can be decoded, or a frame has no presentation time.
    """
    shown: VideoFrame | None = None
    first_pts, interval_seconds, is_damaged = 0, 0.0, False
    with open_video(info.path) as (container, stream):
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                if frame.pts is None or frame.time_base is None:
                    raise VideoError(NO_TIMESTAMPS_MESSAGE.format(path=info.path))
                if shown is None:
                    first_pts = frame.pts
                start_seconds = float((frame.pts - first_pts) * frame.time_base)
                if shown is not None:
                    yield shown, start_seconds
                    interval_seconds = start_seconds - readable.last_start_seconds
                shown, readable.last_start_seconds = frame, start_seconds
        except av.FFmpegError:  # the caller finds out whether a frame that it needs is missing
            is_damaged = True
    if shown is None:
        raise VideoError(f"No frame of {info.path} can be decoded. Give an intact video file.")
    duration_seconds = float((shown.duration or 0) * (shown.time_base or 0))
    end_seconds = readable.last_start_seconds + (duration_seconds or interval_seconds)
    if not is_damaged and not _is_cut(info, end_seconds, duration_seconds, interval_seconds):
        end_seconds = math.inf
    readable.end_seconds = end_seconds
    yield shown, end_seconds


def supports_selective_decoding(info: VideoInfo, keyframes_only: bool) -> bool:
    """Return whether `SelectiveFrameIterator` can read a video.

    It needs presentation times, which avi lacks, and for more than keyframes the reference
    structure of the frames, which is parsed for H.264 only.
    """
    return info.container in _WITH_PRESENTATION_TIMES and (keyframes_only or info.codec == "h264")


class SelectiveFrameIterator(Generic[ImageT]):
    """The images on screen at given times; only the packets they need are decoded, in threads.

    Ends early, without an error, where the file is damaged or differs from what its packet headers
    say. Damage in packets that are not needed is not noticed. Decode all frames to learn more.

    Attributes:
        frame_start_seconds: for each of the first timestamps, the start of the frame on screen.
            An image that is yielded for n timestamps accounts for the next n entries.
    """

    def __init__(
        self,
        info: VideoInfo,
        timestamps: Sequence[float],
        keyframes_only: bool,
        convert: Callable[[VideoFrame], ImageT],
    ) -> None:
        """Prepare one pass over the file.

        Args:
            info: the result of `probe`.
            timestamps: seconds from the first frame, in order.
            keyframes_only: treat the video as consisting of its keyframes, each on screen until
                the next one.
            convert: makes the image of a frame; called in several threads.
        """
        self._info = info
        self._keyframes_only = keyframes_only
        self._convert = convert
        self._filter: PacketFilter[Packet[VideoStream]] = PacketFilter(timestamps)
        self.frame_start_seconds = self._filter.frame_start_seconds

    def __iter__(self) -> Iterator[tuple[ImageT, int]]:
        """Yield each image with the number of timestamps, one or more, at which it is on screen."""
        path, starts, num_shown = self._info.path, self.frame_start_seconds, 0
        shown: tuple[float, ImageT] | None = None
        with open_video(path) as (container, stream):
            first_pts, time_base = self._info.first_pts, stream.time_base or 0
            batches = self._batches(container, stream)
            decoded = decode_batches(path, stream, batches, self._convert, self._keyframes_only)
            with closing(decoded):
                for pts, image in decoded:
                    start_seconds = float((pts - first_pts) * time_base)
                    if shown is not None:  # its end is known when the next image comes
                        num_times = bisect_right(starts, shown[0]) - num_shown
                        yield shown[1], num_times
                        num_shown += num_times
                    if num_shown == len(starts) or start_seconds != starts[num_shown]:
                        return  # a packet held no frame, or several
                    shown = start_seconds, image
        if shown is not None:
            yield shown[1], bisect_right(starts, shown[0]) - num_shown

    def _batches(self, container: InputContainer, stream: VideoStream) -> Iterator[PacketBatch]:
        """Yield the needed packets, once it is known for each whether its frame is shown."""
        undecided: deque[PacketInfo[Packet[VideoStream]]] = deque()
        batch = PacketBatch()
        has_begun = has_parameters = False
        for needed in self._needed_packets(container, stream):
            undecided.extend(needed)
            while undecided and (is_shown := self._filter.is_shown(undecided[0])) is not None:
                info = undecided.popleft()
                # A GOP can go to another decoder if its first packet holds the parameter sets, or
                # if the header holds all of them.
                is_independent = info.has_parameter_sets or not has_parameters
                if has_begun and info.role is FrameRole.IDR and is_independent:
                    batch.ends_gop = True
                    yield batch
                    batch = PacketBatch()
                has_begun, has_parameters = True, has_parameters or info.has_parameter_sets
                if batch.add(info.packet, is_shown):
                    yield batch
                    batch = PacketBatch()
        batch.ends_gop = True
        yield batch

    def _needed_packets(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[list[PacketInfo[Packet[VideoStream]]]]:
        """Yield the needed packets, a few at a time.

        Ends early at damage, and where the header promises more frames than the file holds.
        """
        extradata = stream.codec_context.extradata or b""
        # avcC configuration record: NAL units come after their length, not after start codes.
        length_size = (extradata[4] & 3) + 1 if extradata[:1] == b"\1" else 0
        first_pts, time_base = self._info.first_pts, stream.time_base or 0
        last_start_seconds = duration_seconds = interval_seconds = 0.0
        with suppress(av.FFmpegError):
            for packet in container.demux(stream):
                if packet.size == 0:  # PyAV's flush packet at the end
                    break
                if packet.pts is None or packet.has_sidedata("new_extradata"):
                    return
                start_seconds = float((packet.pts - first_pts) * time_base)
                if start_seconds > last_start_seconds:
                    interval_seconds = start_seconds - last_start_seconds
                    last_start_seconds = start_seconds
                    duration_seconds = float((packet.duration or 0) * packet.time_base)
                if packet.is_keyframe or not self._keyframes_only:
                    start = None if packet.is_discard else start_seconds
                    yield self._filter.push(self._parse(packet, start, length_size))
                if self._filter.done:
                    return
            end_seconds = last_start_seconds + (duration_seconds or interval_seconds)
            if not _is_cut(self._info, end_seconds, duration_seconds, interval_seconds):
                yield self._filter.flush()

    def _parse(
        self, packet: Packet[VideoStream], start_seconds: float | None, length_size: int
    ) -> PacketInfo[Packet[VideoStream]]:
        role, has_parameters = FrameRole.REFERENCE, False
        if self._info.codec == "h264":
            role, has_parameters = parse_h264_packet(memoryview(packet), length_size)
        if self._keyframes_only:
            role = FrameRole.IDR
        return PacketInfo(packet, start_seconds, role, has_parameters)


def _is_cut(
    info: VideoInfo, end_seconds: float, duration_seconds: float, interval_seconds: float
) -> bool:
    """Return whether the file ends earlier than its header says."""
    slack_seconds = max(MAX_MISSING_SECONDS, 2 * duration_seconds, 2 * interval_seconds)
    return info.duration_seconds - end_seconds > slack_seconds
