"""Decode only the packets that are needed for the frames on screen at given times.

`decode_selected_frames` is the entry point. A group of pictures (GOP) starts where no later packet
refers to an earlier one, so each can be decoded without the others. Neighboring GOPs go to
different decoders, each in a thread of its own. A long GOP is split into batches, which go to the
same decoder one after the other.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from typing import Generic, TypeVar

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch.utils.data import get_worker_info

from lit_hour.media.packet_filter import FrameRole, PacketFilter, PacketInfo, parse_h264_packet
from lit_hour.media.packet_times import TimeSource, VideoPacket, read_packets
from lit_hour.media.video_probe import VideoInfo, open_video

# Containers with the presentation times and keyframes that the packet filter needs.
TIMESTAMPED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv")
# Each decoder holds up to 16 full-size frames, and the converted frames of two batches ahead.
MAX_DECODERS = 4
MAX_FRAME_THREADS = 8
MAX_BATCH_FRAMES, MAX_BATCH_BYTES = 64, 8 * 2**20

ImageT = TypeVar("ImageT")


def decode_selected_frames(
    info: VideoInfo,
    timestamps: Sequence[float],
    keyframes_only: bool,
    convert: Callable[[VideoFrame], ImageT],
) -> Iterator[tuple[ImageT, float, int]]:
    """Yield the images on screen at given times; only the packets they need are decoded.

    Ends early, without an error, where the file is damaged or differs from what its packet headers
    say; at once if its presentation times are not known, or, unless `keyframes_only`, if the
    codec is not H.264: the reference structure of other codecs is not parsed. Damage in packets
    that are not needed is not noticed. Decode all frames to learn more.

    Args:
        info: the result of `probe`.
        timestamps: seconds from the first frame, in order.
        keyframes_only: treat the video as consisting of its keyframes, each on screen until the
            next one.
        convert: makes the image of a frame; called in several threads.

    Yields:
        An image, the start of its frame in seconds, and the number of timestamps, one or more, at
        which it is on screen.
    """
    is_parsed = keyframes_only or info.codec == "h264"
    is_timed = info.repair.source is TimeSource.PRESENTATION
    if info.container not in TIMESTAMPED_CONTAINERS or not is_timed or not is_parsed:
        return
    packet_filter: PacketFilter[VideoPacket] = PacketFilter(timestamps)
    starts, num_shown = packet_filter.frame_start_seconds, 0
    shown: tuple[float, ImageT] | None = None
    with open_video(info.path, info.stream_index) as (container, stream):
        packets = _needed_packets(info, container, stream, packet_filter, keyframes_only)
        batches = _batch_packets(packets, packet_filter)
        decoded = decode_batches(info, stream, batches, convert, keyframes_only)
        with closing(decoded):
            for pts, image in decoded:
                start_seconds = info.seconds(pts)
                if shown is not None:  # its end is known when the next image comes
                    num_times = bisect_right(starts, shown[0]) - num_shown
                    yield shown[1], shown[0], num_times
                    num_shown += num_times
                if num_shown == len(starts) or start_seconds != starts[num_shown]:
                    return  # a packet held no frame, or several
                shown = start_seconds, image
    if shown is not None:
        yield shown[1], shown[0], bisect_right(starts, shown[0]) - num_shown


def _needed_packets(
    info: VideoInfo,
    container: InputContainer,
    stream: VideoStream,
    packet_filter: PacketFilter[VideoPacket],
    keyframes_only: bool,
) -> Iterator[list[PacketInfo[VideoPacket]]]:
    """Yield the needed packets, a few at a time; ends early at damage."""
    extradata = stream.codec_context.extradata or b""
    # avcC configuration record: NAL units come after their length, not after start codes.
    length_size = (extradata[4] & 3) + 1 if extradata[:1] == b"\1" else 0
    with suppress(av.FFmpegError):
        for packet in read_packets(container, stream, info.repair):
            if packet.pts is None or packet.has_sidedata("new_extradata"):
                return
            if packet.is_keyframe or not keyframes_only:
                role, has_parameters = FrameRole.IDR, False
                if info.codec == "h264":
                    role, has_parameters = parse_h264_packet(memoryview(packet), length_size)
                if keyframes_only:
                    role = FrameRole.IDR
                shown_seconds = None if packet.is_discard else info.seconds(packet.pts)
                yield packet_filter.push(PacketInfo(packet, shown_seconds, role, has_parameters))
            if packet_filter.done:
                return
        yield packet_filter.decide(inf)


@dataclass
class PacketBatch:
    """Consecutive packets of one GOP; batches are small, because several are read ahead.

    Attributes:
        wanted_pts: presentation times of the frames to return.
        num_bytes: size of the packets.
        ends_gop: whether these are the last packets of the GOP.
    """

    packets: list[VideoPacket] = field(default_factory=list)
    wanted_pts: set[int] = field(default_factory=set)
    num_bytes: int = 0
    ends_gop: bool = False


def _batch_packets(
    packets: Iterator[list[PacketInfo[VideoPacket]]], packet_filter: PacketFilter[VideoPacket]
) -> Iterator[PacketBatch]:
    """Yield the needed packets in batches, once it is known for each whether its frame is shown."""
    undecided: deque[PacketInfo[VideoPacket]] = deque()
    batch = PacketBatch()
    has_begun = has_parameters = False
    for needed in packets:
        undecided.extend(needed)
        while undecided and (is_shown := packet_filter.is_shown(undecided[0])) is not None:
            info = undecided.popleft()
            # A GOP can go to another decoder if its first packet holds the parameter sets, or
            # if the header holds all of them.
            is_independent = info.has_parameter_sets or not has_parameters
            if has_begun and info.role is FrameRole.IDR and is_independent:
                batch.ends_gop = True
                yield batch
                batch = PacketBatch()
            has_begun, has_parameters = True, has_parameters or info.has_parameter_sets
            batch.packets.append(info.packet)
            batch.num_bytes += info.packet.size
            if is_shown and info.packet.pts is not None:
                batch.wanted_pts.add(info.packet.pts)
            if len(batch.wanted_pts) >= MAX_BATCH_FRAMES or batch.num_bytes >= MAX_BATCH_BYTES:
                yield batch
                batch = PacketBatch()
    batch.ends_gop = True
    yield batch


@dataclass(frozen=True)
class DecodedBatch(Generic[ImageT]):
    """Result of decoding a batch.

    Attributes:
        images: with their presentation times, in order; frames that the decoder still delays
            come with the next batch.
        can_continue: False if decoding failed or reached an interlaced frame.
    """

    images: list[tuple[int, ImageT]]
    can_continue: bool


class GopDecoder(Generic[ImageT]):
    """One decoder in a thread of its own.

    Attributes:
        thread: to be shut down at the end.
        num_submitted: packets given to `submit`.
        num_decoded: packets of the batches that have been decoded.
    """

    def __init__(
        self, stream: VideoStream, convert: Callable[[VideoFrame], ImageT], allow_interlaced: bool
    ) -> None:
        """Take over the stream's codec context.

        Args:
            stream: the video stream of an open file.
            convert: makes the image of a frame; called in the decoder's thread.
            allow_interlaced: decode interlaced frames too instead of stopping at the first one.
        """
        self.thread = ThreadPoolExecutor(1, "decoder")
        self.num_submitted = self.num_decoded = 0
        self._context, self._convert = stream.codec_context, convert
        self._allow_interlaced = allow_interlaced
        self._wanted_pts: set[int] = set()

    def submit(self, batch: PacketBatch) -> Future[DecodedBatch[ImageT]]:
        """Decode a batch after those submitted before."""
        if not self._context.is_open:
            # Short GOPs are spread over decoders; a long one has only this decoder's threads.
            num_threads = 1 if batch.ends_gop else min(MAX_FRAME_THREADS, num_available_cpus())
            self._context.thread_type, self._context.thread_count = "FRAME", num_threads
        self.num_submitted += len(batch.packets)
        return self.thread.submit(self._decode, batch)

    def _decode(self, batch: PacketBatch) -> DecodedBatch[ImageT]:
        self._wanted_pts |= batch.wanted_pts
        end = [None] if batch.ends_gop else []  # the decoder then returns the frames it delays
        images: list[tuple[int, ImageT]] = []
        try:
            for frame in chain.from_iterable(map(self._context.decode, [*batch.packets, *end])):
                if frame.pts is None or frame.pts not in self._wanted_pts:
                    continue
                if frame.interlaced_frame and not self._allow_interlaced:
                    # The second field may be in a packet of its own, so packets are not frames.
                    return DecodedBatch(images, can_continue=False)
                images.append((frame.pts, self._convert(frame)))
        except av.FFmpegError:
            return DecodedBatch(images, can_continue=False)
        if batch.ends_gop:
            self._context.flush_buffers()
            self._wanted_pts.clear()
        self.num_decoded += len(batch.packets)
        return DecodedBatch(images, can_continue=True)


def decode_batches(
    info: VideoInfo,
    stream: VideoStream,
    batches: Iterator[PacketBatch],
    convert: Callable[[VideoFrame], ImageT],
    allow_interlaced: bool,
) -> Generator[tuple[int, ImageT], None, None]:
    """Yield the wanted images of all batches in order, each with its presentation time.

    The batches of a GOP go to one decoder: an idle one, a new one, or the one with the fewest
    pending packets. Ends early, without an error, where decoding fails. Closing the generator
    closes the decoders.

    Args:
        info: of the file. Each further decoder opens it again, because its codec context takes the
            color description from the header.
        stream: the video stream of the file that is already open, for the first decoder.
        batches: the packets to decode.
        convert: makes the image of a frame; called in several threads.
        allow_interlaced: see `GopDecoder`.
    """
    max_decoders = min(MAX_DECODERS, num_available_cpus())
    pending: deque[Future[DecodedBatch[ImageT]]] = deque()
    with ExitStack() as on_exit:
        decoders = [GopDecoder(stream, convert, allow_interlaced)]
        on_exit.callback(decoders[0].thread.shutdown, cancel_futures=True)
        decoder: GopDecoder[ImageT] | None = None
        for batch in batches:
            if decoder is None:
                decoder = min(decoders, key=lambda one: one.num_submitted - one.num_decoded)
                is_busy = decoder.num_submitted > decoder.num_decoded
                if is_busy and len(decoders) < max_decoders:
                    _, stream = on_exit.enter_context(open_video(info.path, info.stream_index))
                    decoder = GopDecoder(stream, convert, allow_interlaced)
                    decoders.append(decoder)
                    on_exit.callback(decoder.thread.shutdown, cancel_futures=True)
            pending.append(decoder.submit(batch))
            if batch.ends_gop:
                decoder = None
            if len(pending) > 2 * max_decoders:
                decoded = pending.popleft().result()
                yield from decoded.images
                if not decoded.can_continue:
                    return
        for future in pending:
            decoded = future.result()
            yield from decoded.images
            if not decoded.can_continue:
                return


def num_available_cpus() -> int:
    """Return the CPUs that this process may use; in a DataLoader worker, its share of them."""
    if hasattr(os, "sched_getaffinity"):
        num_cpus = len(os.sched_getaffinity(0))
    else:  # macOS
        num_cpus = os.cpu_count() or 1
    worker = get_worker_info()
    return max(1, num_cpus // worker.num_workers) if worker else num_cpus
