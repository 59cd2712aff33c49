"""Decode groups of pictures (GOPs) in parallel threads; `decode_batches` is the entry point.

A GOP starts where no later packet refers to an earlier one, so each can be decoded without the
others. Neighboring GOPs go to different decoders. A long GOP is split into batches, which go to the
same decoder one after the other.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch.utils.data import get_worker_info

from lit_hour.media.video_probe import open_video

# Each decoder holds up to 16 full-size frames, and the converted frames of two batches ahead.
MAX_DECODERS = 4
MAX_FRAME_THREADS = 8
MAX_BATCH_FRAMES, MAX_BATCH_BYTES = 64, 8 * 2**20

ImageT = TypeVar("ImageT")


def num_available_cpus() -> int:
    """Return the CPUs that this process may use; in a DataLoader worker, its share of them."""
    if hasattr(os, "sched_getaffinity"):
        num_cpus = len(os.sched_getaffinity(0))
    else:  # macOS
        num_cpus = os.cpu_count() or 1
    worker = get_worker_info()
    return max(1, num_cpus // worker.num_workers) if worker else num_cpus


@dataclass
class PacketBatch:
    """Consecutive packets of one GOP; batches are small, because several are read ahead.

    Attributes:
        wanted_pts: presentation times of the frames to return.
        num_bytes: size of the packets.
        ends_gop: whether these are the last packets of the GOP.
    """

    packets: list[Packet[VideoStream]] = field(default_factory=list)
    wanted_pts: set[int] = field(default_factory=set)
    num_bytes: int = 0
    ends_gop: bool = False

    def add(self, packet: Packet[VideoStream], is_wanted: bool) -> bool:
        """Append a packet, and return whether the batch is full.

        Args:
            packet: next one of the GOP.
            is_wanted: its frame is to be returned.
        """
        self.packets.append(packet)
        self.num_bytes += packet.size
        if is_wanted and packet.pts is not None:
            self.wanted_pts.add(packet.pts)
        return len(self.wanted_pts) >= MAX_BATCH_FRAMES or self.num_bytes >= MAX_BATCH_BYTES


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
    """One decoder in a thread of its own."""

    def __init__(
        self, stream: VideoStream, convert: Callable[[VideoFrame], ImageT], allow_interlaced: bool
    ) -> None:
        """Take over the stream's codec context.

        Args:
            stream: the video stream of an open file.
            convert: makes the image of a frame; called in the decoder's thread.
            allow_interlaced: decode interlaced frames too instead of stopping at the first one.
        """
        self._context, self._convert = stream.codec_context, convert
        self._allow_interlaced = allow_interlaced
        self._wanted_pts: set[int] = set()
        self._thread = ThreadPoolExecutor(1, "decoder")
        self._submitted: list[tuple[Future[DecodedBatch[ImageT]], int]] = []

    def submit(self, batch: PacketBatch) -> Future[DecodedBatch[ImageT]]:
        """Decode a batch after those submitted before."""
        if not self._context.is_open:
            # Short GOPs are spread over decoders; a long one has only this decoder's threads.
            num_threads = 1 if batch.ends_gop else min(MAX_FRAME_THREADS, num_available_cpus())
            self._context.thread_type, self._context.thread_count = "FRAME", num_threads
        future = self._thread.submit(self._decode, batch)
        self._submitted.append((future, len(batch.packets)))
        return future

    @property
    def num_pending(self) -> int:
        """Number of packets that are not decoded yet."""
        self._submitted = [
            (future, num_packets) for future, num_packets in self._submitted if not future.done()
        ]
        return sum(num_packets for _, num_packets in self._submitted)

    def close(self) -> None:
        """Wait for the running batch and drop the others."""
        self._thread.shutdown(cancel_futures=True)

    def _decode(self, batch: PacketBatch) -> DecodedBatch[ImageT]:
        self._wanted_pts |= batch.wanted_pts
        images: list[tuple[int, ImageT]] = []
        try:
            for frame in self._wanted_frames(batch):
                if frame.interlaced_frame and not self._allow_interlaced:
                    # The second field may be in a packet of its own, so packets are not frames.
                    return DecodedBatch(images, can_continue=False)
                if frame.pts is not None:
                    images.append((frame.pts, self._convert(frame)))
        except av.FFmpegError:
            return DecodedBatch(images, can_continue=False)
        return DecodedBatch(images, can_continue=True)

    def _wanted_frames(self, batch: PacketBatch) -> Iterator[VideoFrame]:
        end = [None] if batch.ends_gop else []  # the decoder then returns the frames it delays
        for packet in (*batch.packets, *end):
            for frame in self._context.decode(packet):
                if frame.pts in self._wanted_pts:
                    yield frame
        if batch.ends_gop:
            self._context.flush_buffers()
            self._wanted_pts.clear()


def decode_batches(
    path: Path,
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
        path: the file. Each further decoder opens it again, because its codec context takes the
            color description from the header.
        stream: the video stream of the file that is already open, for the first decoder.
        batches: the packets to decode.
        convert: makes the image of a frame; called in several threads.
        allow_interlaced: see `GopDecoder`.
    """
    max_decoders = min(MAX_DECODERS, num_available_cpus())
    pending: deque[Future[DecodedBatch[ImageT]]] = deque()
    with ExitStack() as closing:
        decoders = [GopDecoder(stream, convert, allow_interlaced)]
        closing.callback(decoders[0].close)
        decoder: GopDecoder[ImageT] | None = None
        for batch in batches:
            if decoder is None:
                decoder = min(decoders, key=lambda candidate: candidate.num_pending)
                if decoder.num_pending and len(decoders) < max_decoders:
                    _, stream = closing.enter_context(open_video(path))
                    decoder = GopDecoder(stream, convert, allow_interlaced)
                    decoders.append(decoder)
                    closing.callback(decoder.close)
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
