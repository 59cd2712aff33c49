"""Write a video from packets that are copied and frames that are encoded: `open_writer`.

The file is an MP4 with H.264. Packets of several encoders follow one another in it, so the
parameter sets of each stand before its IDR frames, where every decoder reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from lit_hour.io.atomic import atomic_path
from lit_hour.media.splicing.footage import PIXEL_FORMAT, TICKS_PER_SECOND, FrameSize

TIME_BASE = Fraction(1, TICKS_PER_SECOND)
KEY_FRAME_INTERVAL = 50  # frames of what is encoded
# A constant rate factor of 17 is visually lossless.
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "17"}


@contextmanager
def open_writer(path: Path, size: FrameSize, delay: int = 0) -> Iterator[VideoWriter]:
    """Open a video file for an atomic write; a context manager.

    Args:
        path: file to write.
        size: of all frames.
        delay: see `Footage`; the largest of all videos whose packets are written.

    Raises:
        OSError: the file cannot be written.
    """
    with (
        atomic_path(path) as unfinished,
        av.open(str(unfinished), "w", format="mp4") as container,
    ):
        yield VideoWriter(container, size, delay)


class VideoWriter:
    """The video stream of a file; all times are ticks from its start."""

    def __init__(self, container: OutputContainer, size: FrameSize, delay: int) -> None:
        # The encoder of the stream gives the header alone; frames are encoded by others.
        stream = container.add_stream("libx264", rate=25, options=ENCODER_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = size.width, size.height, PIXEL_FORMAT
        stream.time_base = stream.codec_context.time_base = TIME_BASE
        stream.codec_context.thread_count = 1  # the header states it: files are reproducible
        self._size, self._container, self._stream, self._delay = size, container, stream, delay

    def write(self, packets: Sequence[Packet], starts: Sequence[int], end: int) -> None:
        """Write the packets of a closed GOP.

        Args:
            packets: in decoding order, with start codes between their NAL units.
            starts: of the frames of the packets.
            end: of the frame that is displayed last.
        """
        in_order = sorted(starts)
        ends = dict(zip(in_order, (*in_order[1:], end), strict=True))
        for packet, start, decode in zip(packets, starts, in_order, strict=True):
            packet.pts, packet.dts = start, decode - self._delay
            packet.duration, packet.time_base = ends[start] - start, TIME_BASE
            packet.stream = self._stream
            self._container.mux_one(packet)

    def encode(self, frames: Iterable[tuple[VideoFrame, int]], end: int) -> None:
        """Encode frames of any pixel format, with their starts, as GOPs of their own.

        Args:
            frames: in order of time.
            end: of the last frame.
        """
        group: list[Packet] = []
        for packet in self._encoded_packets(frames):
            start = packet.pts or 0
            if packet.is_keyframe and group:
                self.write(group, [item.pts or 0 for item in group], start)
                group = []
            group.append(packet)
        if group:
            self.write(group, [item.pts or 0 for item in group], end)

    def _encoded_packets(self, frames: Iterable[tuple[VideoFrame, int]]) -> Iterator[Packet]:
        encoder = _open_encoder(self._size)
        for frame, start in frames:
            picture = frame.reformat(format=PIXEL_FORMAT, threads=1)
            picture.pts, picture.time_base, picture.pict_type = start, TIME_BASE, PictureType.NONE
            yield from encoder.encode(picture)
        yield from encoder.encode(None)


def _open_encoder(size: FrameSize) -> VideoCodecContext:
    """Return an encoder with parameter sets before each IDR frame, and without B-frames.

    It uses one thread, since videos are made in parallel.
    """
    encoder = VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = size.width, size.height, PIXEL_FORMAT
    encoder.time_base, encoder.framerate = TIME_BASE, Fraction(25)  # the times count, not the rate
    encoder.max_b_frames, encoder.gop_size, encoder.thread_count = 0, KEY_FRAME_INTERVAL, 1
    encoder.options = ENCODER_OPTIONS
    return encoder
