"""Read the sampled frames of a small video as JPEG files, in one thread and without torch.

A process that renders or converts videos so gets the frames that packing stores, byte for byte,
without the two seconds and the threads that `video_reader` takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from av.video.frame import VideoFrame

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.frame_decoding import Damage, decode_frames
from lit_hour.media.packet_filter import TIME_TOLERANCE_SECONDS
from lit_hour.media.pil_images import RgbConverter, encode_pil_jpeg, resize_to_square
from lit_hour.media.sample_times import sample_timestamps
from lit_hour.media.video_probe import VideoInfo, open_video, probe


@dataclass(frozen=True)
class JpegFrames:
    """The sampled frames of a video as JPEG files, with their times, and its duration."""

    images: list[bytes]
    timestamps_seconds: list[float]
    duration_seconds: float


def supports(video: VideoConfig) -> bool:
    """Return whether `read_jpeg_frames` can sample frames by these settings."""
    return video.sampling == "seconds" and not video.keyframes_only


def read_jpeg_frames(path: Path, video: VideoConfig, jpeg_quality: int) -> JpegFrames:
    """Read the frames of an intact video, as `SampledVideo` samples and resizes them.

    Args:
        path: of a video that is stored upright.
        video: how frames are sampled; see `supports`.
        jpeg_quality: 1 to 100.

    Raises:
        VideoError: the file cannot be read to its end, or has to be rotated.
    """
    info = probe(path)
    if info.transpose is not None:
        raise VideoError(f"{info.path} is stored rotated or mirrored. Pack it.")
    timestamps = sample_timestamps(
        info.duration_seconds, video.fps, video.min_frames, video.max_frames
    )
    encoder = _FrameEncoder(video.image_size, jpeg_quality)
    images: list[bytes] = []
    for frame, end_seconds in displayed_frames(info):
        while (
            len(images) < len(timestamps)
            and timestamps[len(images)] < end_seconds - TIME_TOLERANCE_SECONDS
        ):
            images.append(encoder.encode(frame))
    return JpegFrames(images, timestamps, info.duration_seconds)


def displayed_frames(info: VideoInfo) -> Iterator[tuple[VideoFrame, float]]:
    """Yield every frame of an intact video with the second at which it leaves the screen.

    The last frame stays, so that its end is infinite. One thread decodes.

    Raises:
        VideoError: the file is cut, or a packet cannot be decoded.
    """
    if info.fault:
        raise VideoError(f"{info.path} is damaged or cut short: {info.fault}. Give an intact file.")
    damage = Damage()
    with open_video(info.path, info.stream_index) as (container, stream):
        stream.codec_context.thread_count = 1
        shown: VideoFrame | None = None
        for frame, ticks in decode_frames(container, stream, info.repair, damage):
            if damage.num_packets:
                break
            if shown is not None:
                yield shown, info.seconds(ticks)
            shown = frame
        if damage.num_packets:
            raise VideoError(
                f"{info.path} is damaged: a packet cannot be decoded. Give an intact file."
            )
        if shown is not None:
            yield shown, math.inf


class _FrameEncoder:
    """Encodes frames as JPEG, and a frame that equals the one before only once."""

    def __init__(self, image_size: int, jpeg_quality: int) -> None:
        self._image_size, self._jpeg_quality = image_size, jpeg_quality
        self._to_rgb = RgbConverter()
        self._planes: list[bytes] = []
        self._jpeg = b""

    def encode(self, frame: VideoFrame) -> bytes:
        """Return a frame, resized, as JPEG."""
        planes = [bytes(plane) for plane in frame.planes]
        if planes != self._planes:
            square = resize_to_square(self._to_rgb(frame), self._image_size)
            self._planes, self._jpeg = planes, encode_pil_jpeg(square, self._jpeg_quality)
        return self._jpeg
