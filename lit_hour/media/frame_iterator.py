"""A video file in, its frames out, each with the time it has on screen: all of them, or those that given times show."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lit_hour.errors import VideoError
from lit_hour.media.gop_decoder import GopDecoderPool, PacketBatch, PacketBatcher
from lit_hour.media.packet_filter import FrameRole, PacketFilter, PacketInfo, parse_h264_packet
from lit_hour.media.video_probe import (
    MAX_MISSING_SECONDS,
    NO_TIMESTAMPS_MESSAGE,
    VideoInfo,
    open_video,
)

_WITH_PRESENTATION_TIMES = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv")

PictureT = TypeVar("PictureT")


class FrameIterator:
    """Every frame of a video, with the time at which it leaves the screen.

    Attributes:
        last_start_seconds: when the last frame that decoded comes on screen.
        end_seconds: when it leaves the screen, known after the pass; infinite for a whole file, whose last frame stays.
    """

    def __init__(self, info: VideoInfo) -> None:
        self.info = info
        self.last_start_seconds = 0.0
        self.end_seconds = 0.0
        self._stopped = False

    def __iter__(self) -> Iterator[tuple[VideoFrame, float]]:
        shown: VideoFrame | None = None
        interval_seconds = 0.0
        for frame, start_seconds in self._decode():
            if shown is not None:
                yield shown, start_seconds
                interval_seconds = start_seconds - self.last_start_seconds
            shown, self.last_start_seconds = frame, start_seconds
        if shown is None:
            raise VideoError(
                f"{self.info.path}: no frame of the video can be decoded; give a whole file"
            )
        self.end_seconds = self._end(shown, interval_seconds)
        yield shown, self.end_seconds

    def _decode(self) -> Iterator[tuple[VideoFrame, float]]:
        first_pts: int | None = None
        with open_video(self.info.path) as (container, stream):
            stream.thread_type = "AUTO"
            try:
                for frame in container.decode(stream):
                    if frame.pts is None or frame.time_base is None:
                        raise VideoError(NO_TIMESTAMPS_MESSAGE.format(path=self.info.path))
                    first_pts = frame.pts if first_pts is None else first_pts
                    yield frame, float((frame.pts - first_pts) * frame.time_base)
            except av.FFmpegError:
                self._stopped = True  # whether anything that was asked for is missing is judged at the end of the pass

    def _end(self, last: VideoFrame, interval_seconds: float) -> float:
        """When the last frame leaves the screen; never, unless the decoder stopped or the header promised more."""
        on_screen_seconds = float((last.duration or 0) * (last.time_base or 0))
        end_seconds = self.last_start_seconds + (on_screen_seconds or interval_seconds)
        is_cut = self._stopped or _is_cut(
            self.info, end_seconds, on_screen_seconds, interval_seconds
        )
        return end_seconds if is_cut else math.inf


class SelectiveFrameIterator(Generic[PictureT]):
    """The pictures on screen at given times, of which only the packets that they need are decoded, in several threads.

    Ends early, without an error, where the file is damaged or is not what its packets say it is: whoever wants to know more
    has to decode everything. Damage in what is not needed is not seen.

    Attributes:
        frame_start_seconds: when the picture on screen at each of the first timestamps came there; a picture that is given out for
            n timestamps stands for the next n.
    """

    def __init__(
        self,
        info: VideoInfo,
        timestamps: Sequence[float],
        key_frames_only: bool,
        convert: Callable[[VideoFrame], PictureT],
    ) -> None:
        """Prepare a pass.

        Args:
            info: what `probe` has said of the video.
            timestamps: seconds from the first frame, in order.
            key_frames_only: the video is taken to consist of its key frames, each on screen until the next.
            convert: makes the picture of a frame; it is called in several threads.
        """
        self._info = info
        self._key_frames_only = key_frames_only
        self._convert = convert
        self._needed: PacketFilter[Packet[VideoStream]] = PacketFilter(timestamps)
        self._last_start_seconds = self._on_screen_seconds = self._interval_seconds = 0.0
        self.frame_start_seconds = self._needed.frame_start_seconds

    @staticmethod
    def supports(info: VideoInfo, key_frames_only: bool) -> bool:
        """Whether the packets say enough; avi has no presentation times, and only H.264 is read for what refers to what."""
        return info.container in _WITH_PRESENTATION_TIMES and (
            key_frames_only or info.codec == "h264"
        )

    def __iter__(self) -> Iterator[tuple[PictureT, int]]:
        """Each picture with the number of timestamps, one or more, at which it is on screen."""
        num_shown = 0
        shown: tuple[float, PictureT] | None = None
        for start_seconds, picture in self._pictures():
            if shown is not None:  # how long it stays is known when the next one comes
                num_here = bisect_right(self.frame_start_seconds, shown[0]) - num_shown
                yield shown[1], num_here
                num_shown += num_here
            if (
                num_shown == len(self.frame_start_seconds)
                or start_seconds != self.frame_start_seconds[num_shown]
            ):
                return  # a packet without a picture, or with several
            shown = start_seconds, picture
        if shown is not None:
            yield shown[1], bisect_right(self.frame_start_seconds, shown[0]) - num_shown

    def _pictures(self) -> Iterator[tuple[float, PictureT]]:
        """Each picture that is wanted, with the time at which it comes on screen."""
        path = self._info.path
        with (
            open_video(path) as (container, stream),
            GopDecoderPool(
                path, stream, self._convert, takes_fields=self._key_frames_only
            ) as decoders,
        ):
            for pts, picture in decoders.decode(self._batches(container, stream)):
                yield self._start_seconds(pts, stream), picture

    def _batches(self, container: InputContainer, stream: VideoStream) -> Iterator[PacketBatch]:
        """The packets that are needed, once it is known of each whether its picture is shown."""
        undecided: deque[PacketInfo[Packet[VideoStream]]] = deque()
        cutter = PacketBatcher()
        has_begun = has_parameters = False
        for needed in self._needed_packets(container, stream):
            undecided.extend(needed)
            while undecided and (is_shown := self._needed.is_shown(undecided[0])) is not None:
                coded = undecided.popleft()
                if (
                    has_begun
                    and coded.role is FrameRole.IDR
                    and (coded.has_parameter_sets or not has_parameters)
                ):
                    yield cutter.cut(
                        ends_segment=True
                    )  # another decoder, which has not seen the parameters before this
                has_begun, has_parameters = True, has_parameters or coded.has_parameter_sets
                cutter.add(coded.packet, is_shown)
                if cutter.is_full:
                    yield cutter.cut(ends_segment=False)
        yield cutter.cut(ends_segment=True)

    def _needed_packets(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[list[PacketInfo[Packet[VideoStream]]]]:
        """Those that are needed, a few at a time; ends early at damage, and where the header promises more."""
        configuration = stream.codec_context.extradata or b""
        length_bytes = (configuration[4] & 3) + 1 if configuration[:1] == b"\1" else 0
        with suppress(av.FFmpegError):
            for packet in container.demux(stream):
                if packet.size == 0:  # PyAV ends with an empty one
                    break
                if packet.pts is None or packet.has_sidedata("new_extradata"):
                    return
                self._note_end(packet)
                if packet.is_keyframe or not self._key_frames_only:
                    yield self._needed.push(self._describe(packet, length_bytes))
                if self._needed.done:
                    return
            end_seconds = self._last_start_seconds + (
                self._on_screen_seconds or self._interval_seconds
            )
            if not _is_cut(
                self._info, end_seconds, self._on_screen_seconds, self._interval_seconds
            ):
                yield self._needed.flush()

    def _describe(
        self, packet: Packet[VideoStream], length_bytes: int
    ) -> PacketInfo[Packet[VideoStream]]:
        role, has_parameters = FrameRole.REFERENCE, False
        if self._info.codec == "h264":
            role, has_parameters = parse_h264_packet(memoryview(packet), length_bytes)
        start_seconds = (
            None if packet.is_discard else self._start_seconds(packet.pts, packet.stream)
        )
        return PacketInfo(
            packet, start_seconds, FrameRole.IDR if self._key_frames_only else role, has_parameters
        )

    def _start_seconds(self, pts: int | None, stream: VideoStream) -> float:
        return float(((pts or 0) - self._info.first_pts) * (stream.time_base or 0))

    def _note_end(self, packet: Packet[VideoStream]) -> None:
        start_seconds = self._start_seconds(packet.pts, packet.stream)
        if start_seconds > self._last_start_seconds:
            self._interval_seconds = start_seconds - self._last_start_seconds
            self._last_start_seconds = start_seconds
            self._on_screen_seconds = float((packet.duration or 0) * packet.time_base)


def _is_cut(
    info: VideoInfo, end_seconds: float, on_screen_seconds: float, interval_seconds: float
) -> bool:
    """Whether the header promises more than a file whose last frame ends here."""
    slack_seconds = max(MAX_MISSING_SECONDS, 2 * on_screen_seconds, 2 * interval_seconds)
    return info.duration_seconds - end_seconds > slack_seconds
