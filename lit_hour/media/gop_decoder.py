"""Packets of a video in, the pictures wanted of them out: decoded and converted side by side, in threads.

A segment begins where nothing after refers to anything before, so that each can be decoded without the others. Neighbouring
segments go to different decoders. A long one is cut into batches, which go to the same decoder one after the other.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch.utils.data import get_worker_info

from lit_hour.media.video_probe import open_video

MAX_DECODERS = (
    4  # each holds up to 16 pictures at full size, and reading ahead the pictures of two batches
)
MAX_FRAME_THREADS = 8
MAX_BATCH_FRAMES, MAX_BATCH_BYTES = 64, 8 * 2**20  # where a batch is cut

PictureT = TypeVar("PictureT")


@dataclass(frozen=True)
class PacketBatch:
    """Packets of one segment, in order.

    Attributes:
        wanted_pts: presentation times of the pictures among them that are wanted.
        ends_segment: whether these are its last packets.
    """

    packets: list[Packet[VideoStream]]
    wanted_pts: frozenset[int]
    ends_segment: bool


class PacketBatcher:
    """Packets in, batches of them out; one reads ahead several batches, so they are not large."""

    def __init__(self) -> None:
        self._packets: list[Packet[VideoStream]] = []
        self._wanted_pts: set[int] = set()
        self._num_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the batch should be cut here."""
        return len(self._wanted_pts) >= MAX_BATCH_FRAMES or self._num_bytes >= MAX_BATCH_BYTES

    def add(self, packet: Packet[VideoStream], is_wanted: bool) -> None:
        """Put a packet into the batch."""
        self._packets.append(packet)
        self._num_bytes += packet.size
        if is_wanted and packet.pts is not None:
            self._wanted_pts.add(packet.pts)

    def cut(self, ends_segment: bool) -> PacketBatch:
        """The batch, and begin the next one."""
        batch = PacketBatch(self._packets, frozenset(self._wanted_pts), ends_segment)
        self._packets, self._wanted_pts, self._num_bytes = [], set(), 0
        return batch


@dataclass(frozen=True)
class DecodedBatch(Generic[PictureT]):
    """What a batch gave.

    Attributes:
        pictures: with their presentation times, in order; those that a decoder still holds back come with the next batch.
        can_continue: whether decoding can go on.
    """

    pictures: list[tuple[int, PictureT]]
    can_continue: bool


def num_available_cpus() -> int:
    """The CPUs that this process may use; in a worker of a data loader, its share of them."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )  # not on macOS
    worker = get_worker_info()
    return max(1, allowed // worker.num_workers) if worker else allowed


class GopDecoder(Generic[PictureT]):
    """One decoder in a thread of its own."""

    def __init__(
        self, stream: VideoStream, convert: Callable[[VideoFrame], PictureT], takes_fields: bool
    ) -> None:
        """Take the stream's decoder; `takes_fields`: an interlaced picture counts like any other."""
        self._context, self._convert, self._takes_fields = (
            stream.codec_context,
            convert,
            takes_fields,
        )
        self._wanted_pts: set[int] = set()
        self._thread = ThreadPoolExecutor(1, "decoder")
        self._submitted: list[tuple[Future[DecodedBatch[PictureT]], int]] = []

    def submit(self, batch: PacketBatch) -> Future[DecodedBatch[PictureT]]:
        """Decode a batch after those submitted before."""
        if (
            not self._context.is_open
        ):  # short segments are spread over decoders; a long one has but this decoder
            self._context.thread_type = "FRAME"
            self._context.thread_count = (
                1 if batch.ends_segment else min(MAX_FRAME_THREADS, num_available_cpus())
            )
        future = self._thread.submit(self._decode, batch)
        self._submitted.append((future, len(batch.packets)))
        return future

    @property
    def num_waiting(self) -> int:
        """Packets that are not decoded yet."""
        self._submitted = [
            (future, num_packets) for future, num_packets in self._submitted if not future.done()
        ]
        return sum(num_packets for _, num_packets in self._submitted)

    def close(self) -> None:
        """Wait for the batch in work and drop the others."""
        self._thread.shutdown(cancel_futures=True)

    def _decode(self, batch: PacketBatch) -> DecodedBatch[PictureT]:
        self._wanted_pts |= batch.wanted_pts
        pictures: list[tuple[int, PictureT]] = []
        try:
            for frame in self._frames(batch):
                if frame.interlaced_frame and not self._takes_fields:
                    return DecodedBatch(
                        pictures, can_continue=False
                    )  # the second field may lie in a packet of its own
                if frame.pts is not None:
                    pictures.append((frame.pts, self._convert(frame)))
        except av.FFmpegError:
            return DecodedBatch(pictures, can_continue=False)
        return DecodedBatch(pictures, can_continue=True)

    def _frames(self, batch: PacketBatch) -> Iterator[VideoFrame]:
        for packet in batch.packets:
            yield from self._wanted(self._context.decode(packet))
        if batch.ends_segment:
            yield from self._wanted(self._context.decode(None))
            self._context.flush_buffers()
            self._wanted_pts.clear()

    def _wanted(self, frames: list[VideoFrame]) -> Iterator[VideoFrame]:
        return (frame for frame in frames if frame.pts in self._wanted_pts)


class GopDecoderPool(Generic[PictureT]):
    """Several decoders of one file; a context manager that leaves no thread and no open file behind."""

    def __init__(
        self,
        path: Path,
        stream: VideoStream,
        convert: Callable[[VideoFrame], PictureT],
        takes_fields: bool,
    ) -> None:
        """Prepare the first decoder.

        Args:
            path: the file; each decoder after the first one opens it again, for what its header says of the colours.
            stream: of the file as it is open already.
            convert: makes what is kept of a frame; it is called in several threads.
            takes_fields: see `GopDecoder`.
        """
        self._path, self._convert, self._takes_fields = path, convert, takes_fields
        self._most_decoders = min(MAX_DECODERS, num_available_cpus())
        self._closing = ExitStack()
        self._decoders: list[GopDecoder[PictureT]] = []
        self._add_decoder(stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    def decode(self, batches: Iterator[PacketBatch]) -> Iterator[tuple[int, PictureT]]:
        """The wanted pictures of all batches in order, each with its presentation time; ends early where decoding fails."""
        waiting: deque[Future[DecodedBatch[PictureT]]] = deque()
        decoder: GopDecoder[PictureT] | None = None
        for batch in batches:
            decoder = decoder or self._least_busy()
            waiting.append(decoder.submit(batch))
            if batch.ends_segment:
                decoder = None
            if len(waiting) > 2 * self._most_decoders:
                decoded = waiting.popleft().result()
                yield from decoded.pictures
                if not decoded.can_continue:
                    return
        for future in waiting:
            decoded = future.result()
            yield from decoded.pictures
            if not decoded.can_continue:
                return

    def _least_busy(self) -> GopDecoder[PictureT]:
        decoder = min(self._decoders, key=lambda decoder: decoder.num_waiting)
        if decoder.num_waiting and len(self._decoders) < self._most_decoders:
            decoder = self._add_decoder(self._closing.enter_context(open_video(self._path))[1])
        return decoder

    def _add_decoder(self, stream: VideoStream) -> GopDecoder[PictureT]:
        decoder = GopDecoder(stream, self._convert, self._takes_fields)
        self._closing.callback(decoder.close)
        self._decoders.append(decoder)
        return decoder
