"""Assemble a video from excerpts of others: `splice_video`.

A GOP of which every frame is kept as it is, is copied packet by packet, so its frames decode to the
same bytes. The other GOPs, at the ends of an excerpt or under an overlay, are decoded and encoded
again. Sound is not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from lit_hour.errors import VideoError
from lit_hour.media.pil_images import RgbConverter
from lit_hour.media.splicing.footage import TICKS_PER_SECOND, Footage, VideoPacket, read_gops
from lit_hour.media.splicing.video_writer import VideoWriter, open_writer
from lit_hour.media.video_probe import open_video

Draw = Callable[[Image.Image, float], Image.Image]


@dataclass(frozen=True)
class Excerpt:
    """Consecutive frames of a video, from `first_frame` to the one before `end_frame`."""

    footage: Footage
    first_frame: int
    end_frame: int

    @property
    def ticks(self) -> int:
        """Return the duration in ticks."""
        return self.footage.start_of(self.end_frame) - self.footage.starts[self.first_frame]

    @property
    def frame_starts(self) -> list[int]:
        """Return the start of each frame in ticks, counted from the first one."""
        starts = self.footage.starts[self.first_frame : self.end_frame]
        return [start - starts[0] for start in starts]


@dataclass(frozen=True)
class Overlay:
    """A change of the frames that start within an interval of the assembled video.

    Attributes:
        start: of the interval in ticks.
        end: in ticks; a frame that starts here is not changed.
        draw: returns the changed RGB image of a frame, given its time in seconds from the start.
    """

    start: int
    end: int
    draw: Draw


def splice_video(path: Path, excerpts: Sequence[Excerpt], overlays: Sequence[Overlay] = ()) -> None:
    """Write a video of excerpts one after the other, atomically, as MP4 without sound.

    Args:
        path: file to write.
        excerpts: of videos of one frame size.
        overlays: in order of time, without overlap.

    Raises:
        VideoError: the videos differ in size, or one cannot be decoded.
        OSError: the file cannot be written.
    """
    sizes = {excerpt.footage.size for excerpt in excerpts}
    if len(sizes) != 1:
        raise VideoError(
            f"Excerpts of {', '.join(map(str, sizes))} pixels cannot be joined. Give one size."
        )
    delay = max(excerpt.footage.delay for excerpt in excerpts)
    with open_writer(path, sizes.pop(), delay) as writer:
        start = 0
        for excerpt in excerpts:
            _add_excerpt(writer, excerpt, start, overlays)
            start += excerpt.ticks


def _add_excerpt(
    writer: VideoWriter, excerpt: Excerpt, start: int, overlays: Sequence[Overlay]
) -> None:
    """Write an excerpt that starts at a time of the assembled video."""
    footage = excerpt.footage
    origin = start - footage.starts[excerpt.first_frame]  # of the file in the assembled video

    def is_copied(gop: int) -> bool:
        first, end = footage.gop_range(gop)
        first_start, last_start = origin + footage.starts[first], origin + footage.starts[end - 1]
        return (
            excerpt.first_frame <= first
            and end <= excerpt.end_frame
            and not any(item.start <= last_start and first_start < item.end for item in overlays)
        )

    gops = range(footage.gop_of(excerpt.first_frame), footage.gop_of(excerpt.end_frame - 1) + 1)
    with open_video(footage.path) as (container, stream):
        stream.codec_context.thread_count = 1  # videos are made in parallel
        for copied, group in groupby(gops, is_copied):
            first_gop, *more = group
            end_gop = (more or [first_gop])[-1] + 1
            if copied:
                _copy(writer, container, stream, footage, (first_gop, end_gop), origin)
            else:
                frames = _decode(container, stream, excerpt, (first_gop, end_gop))
                shifted = ((frame, origin + ticks) for frame, ticks in frames)
                end_frame = min(footage.gop_range(end_gop - 1)[1], excerpt.end_frame)
                end = origin + footage.start_of(end_frame)
                writer.encode(_draw_overlays(shifted, overlays), end)


def _copy(
    writer: VideoWriter,
    container: InputContainer,
    stream: VideoStream,
    footage: Footage,
    gops: tuple[int, int],
    origin: int,
) -> None:
    """Copy the packets of consecutive GOPs."""
    groups = _read_with_start_codes(container, stream, footage, gops)
    for number, (packets, ticks) in enumerate(groups, start=gops[0]):
        end = footage.start_of(footage.gop_range(number)[1])
        writer.write(packets, [origin + start for start in ticks], origin + end)


def _read_with_start_codes(
    container: InputContainer, stream: VideoStream, footage: Footage, gops: tuple[int, int]
) -> Iterator[tuple[list[VideoPacket], list[int]]]:
    """Yield the packets of each GOP with the start of their frames in the file.

    Parameter sets are copied into the packets, because those of other excerpts differ.

    Raises:
        VideoError: a packet is damaged.
    """
    to_start_codes = BitStreamFilterContext("h264_mp4toannexb", stream)
    try:
        for group in read_gops(container, stream, footage, *gops):
            starts = [footage.ticks_of(packet.pts or 0) for packet in group]
            packets = [item for packet in group for item in to_start_codes.filter(packet)]
            yield packets, starts
    except av.FFmpegError as error:
        raise VideoError(
            f"The packets of {footage.path} cannot be copied ({error.strerror}). Give an intact"
            " file."
        ) from error


def _decode(
    container: InputContainer, stream: VideoStream, excerpt: Excerpt, gops: tuple[int, int]
) -> Iterator[tuple[VideoFrame, int]]:
    """Yield the frames of an excerpt that lie in consecutive GOPs, with their times in the file.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    footage = excerpt.footage
    first, end = footage.gop_range(gops[0])[0], footage.gop_range(gops[1] - 1)[1]
    numbers = {footage.starts[number]: number for number in range(first, end)}
    num_decoded = 0
    try:
        for frame in _decode_gops(container, stream, footage, gops):
            ticks = footage.ticks_of(frame.pts or 0)
            num_decoded += ticks in numbers
            if excerpt.first_frame <= numbers.get(ticks, -1) < excerpt.end_frame:
                yield frame, ticks
    except av.FFmpegError as error:
        raise VideoError(f"{footage.path} cannot be decoded ({error.strerror}).") from error
    if num_decoded != len(numbers):
        raise VideoError(
            f"Only {num_decoded} of {len(numbers)} frames of {footage.path} can be decoded from"
            f" {footage.starts[first] / TICKS_PER_SECOND:.1f} s on. Give an intact file."
        )


def _decode_gops(
    container: InputContainer, stream: VideoStream, footage: Footage, gops: tuple[int, int]
) -> Iterator[VideoFrame]:
    for group in read_gops(container, stream, footage, *gops):
        for packet in group:
            yield from stream.decode(packet)
    yield from stream.decode(None)
    stream.codec_context.flush_buffers()


def _draw_overlays(
    frames: Iterator[tuple[VideoFrame, int]], overlays: Sequence[Overlay]
) -> Iterator[tuple[VideoFrame, int]]:
    """Change the frames under the overlays; the others pass as they are."""
    to_rgb = RgbConverter()
    for frame, ticks in frames:
        for overlay in overlays:
            if overlay.start <= ticks < overlay.end:
                seconds = (ticks - overlay.start) / TICKS_PER_SECOND
                image = overlay.draw(to_rgb(frame), seconds)
                frame = VideoFrame.from_image(image)
        yield frame, ticks
