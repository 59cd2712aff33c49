"""Sampled frames of a live source, while it goes on (`LiveStream`).

A source is a file that grows, a pipe, standard input, or a URL (RTSP, HTTP) that FFmpeg reads. The
frames are those that `SampledVideo` returns for the same packets in a file, as long as the video
has at least `video.min_frames` and at most `video.max_frames` of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from threading import Event

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import ConfigError, VideoError
from lit_hour.io.urls import is_url, redact
from lit_hour.media.frame_conversion import FrameConverter
from lit_hour.media.frame_decoding import Damage, decode_packets
from lit_hour.media.live_bytes import LiveBytes, open_live_bytes
from lit_hour.media.live_packets import PacketClock, repair_live_packets
from lit_hour.media.packet_filter import TIME_TOLERANCE_SECONDS
from lit_hour.media.packet_times import TimeSource, VideoPacket
from lit_hour.media.video_probe import VIDEO_FORMATS, find_films

_SEND = (
    "Send a format that can be read while it is written: ts, mkv, flv or fragmented mp4. Use"
    " lit-hour ask for a file that is complete."
)
_MIN_TIMEOUT_SECONDS = 1.0  # of a URL
_URL_OPTIONS = {
    "rtsp_transport": "tcp",  # packets that UDP loses would be damage
    "format_whitelist": f"{VIDEO_FORMATS},rtsp,rtp,sdp,hls",
    "protocol_whitelist": "rtsp,rtp,rtcp,udp,tcp,tls,http,https,httpproxy,crypto",
}
_BYTES_OPTIONS = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "pipe"}


class LiveStream:
    """A live source, decoded as it arrives.

    Attributes:
        name: of the source, without secrets of a URL.
        duration_seconds: of the video up to the last packet or frame that was read.
        end_reason: how the source ended; empty before.
        damage: packets that could not be decoded. The frame before each stays on screen.
    """

    def __init__(self, source: str, config: VideoConfig, stall_seconds: float) -> None:
        """Check the settings; `frames` opens the source.

        Args:
            source: path, URL, or `-` for standard input.
            config: how frames are sampled.
            stall_seconds: without new data, after which the source has ended.

        Raises:
            ConfigError: a setting needs the whole video.
        """
        if config.sampling != "seconds":
            raise ConfigError(
                f"video.sampling={config.sampling} needs the end of a video, which a live source"
                " does not have. Set video.sampling=seconds."
            )
        self._source, self._config, self._stall_seconds = source, config, stall_seconds
        self.name = redact(source) if is_url(source) else source
        self.duration_seconds, self.end_reason, self.damage = 0.0, "", Damage()
        self._stopped = Event()
        self._bytes: LiveBytes | None = None

    def stop(self) -> None:
        """End the source from another thread, after the next packet.

        An idle file or pipe ends at once, an idle URL after `stall_seconds`.
        """
        self._stopped.set()

    def frames(self) -> Iterator[tuple[Tensor, float]]:
        """Yield the sampled frames `(3, size, size)` uint8 and their times in seconds.

        A frame is yielded when it leaves the screen, and the last one when the source ends.

        Raises:
            VideoError: the source cannot be opened, or no frame of it can be decoded.
        """
        with self._open() as container:
            stream = _choose_stream(self.name, container)
            stream.codec_context.thread_count = 1  # several delay frames
            yield from self._sample(container, stream)

    @contextmanager
    def _open(self) -> Iterator[InputContainer]:
        try:
            if is_url(self._source):
                timeout = max(self._stall_seconds, _MIN_TIMEOUT_SECONDS)
                with av.open(self._source, "r", options=_URL_OPTIONS, timeout=timeout) as container:
                    yield container
                return
            with (
                open_live_bytes(self._source, self._stall_seconds, self._stopped) as self._bytes,
                av.open(self._bytes, "r", options=_BYTES_OPTIONS) as container,
            ):
                yield container
        except av.FFmpegError as error:
            raise VideoError(self._explain_unopened(error)) from error

    def _explain_unopened(self, error: av.FFmpegError) -> str:
        """Return why a source cannot be opened."""
        if isinstance(error, av.error.ExitError | av.error.TimeoutError):
            return (
                f"{self.name} sent no video within {self._stall_seconds:g} s. Start the source"
                " first, or raise --stall-seconds."
            )
        ended = f"; {self._bytes.end_reason}" if self._bytes and self._bytes.end_reason else ""
        return f"{self.name} cannot be read as a live video ({error.strerror}{ended}). {_SEND}"

    def _sample(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[Tensor, float]]:
        """Yield the sampled frames of an open source."""
        clock = PacketClock(container, stream)
        packets = repair_live_packets(container, self._packets(container, stream), clock)
        convert = FrameConverter(self.name, self._config.image_size)
        time_base = stream.time_base or Fraction(1, av.time_base)
        shown: VideoFrame | None = None
        first_ticks, num_sampled = 0, 0

        def sample_until(end_seconds: float) -> Iterator[tuple[Tensor, float]]:
            nonlocal num_sampled
            if shown is None or num_sampled / self._config.fps >= end_seconds:
                return
            image = convert(shown)  # (3, size, size)
            while (seconds := num_sampled / self._config.fps) < end_seconds:
                yield image, seconds
                num_sampled += 1

        for frame, ticks in decode_packets(packets, stream, clock.repair, self.damage):
            first_ticks = ticks if shown is None else first_ticks
            start_seconds = float((ticks - first_ticks) * time_base)
            yield from sample_until(start_seconds - TIME_TOLERANCE_SECONDS)
            shown, self.duration_seconds = frame, max(self.duration_seconds, start_seconds)
        if shown is None:
            raise VideoError(f"No frame of {self.name} can be decoded: {self.end_reason}. {_SEND}")
        if clock.repair.source is not TimeSource.PRESENTATION:
            first_ticks = clock.first_ticks or 0  # the decoder returns the first frame later
        end_ticks = clock.end_ticks
        if self.damage.is_at_end:  # what follows the last decoded frame is unknown
            end_ticks = min(ticks + (frame.duration or clock.repair.frame_ticks), end_ticks)
        end_seconds = float((end_ticks - first_ticks) * time_base)
        self.duration_seconds = max(self.duration_seconds, end_seconds)
        yield from sample_until(self.duration_seconds)

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoPacket]:
        """Yield packets until the source ends, and record how it ended."""
        try:
            for packet in container.demux(stream):
                if self._stopped.is_set():
                    self.end_reason = "it was stopped"
                    return
                yield packet
            self.end_reason = "it was closed"
        except (av.error.ExitError, av.error.TimeoutError):
            self.end_reason = f"it sent nothing for {self._stall_seconds:g} s"
        except av.FFmpegError as error:
            self.end_reason = f"it broke off ({error.strerror})"
        if self._bytes is not None and self._bytes.end_reason:
            self.end_reason = self._bytes.end_reason


def _choose_stream(name: str, container: InputContainer) -> VideoStream:
    """Return the default stream among those that hold films, else the largest.

    Raises:
        VideoError: there is none that can be decoded.
    """
    films = find_films(name, container)
    best = max(
        films,
        key=lambda stream: (
            stream.codec_context is not None,
            bool(stream.disposition & Disposition.default),
            stream.width * stream.height if stream.codec_context else 0,
            -stream.index,
        ),
    )
    if best.codec_context is None:
        raise VideoError(f"{name} has a video stream of an unknown codec. Send H.264.")
    return best
