"""Sample frames of a video and read them, resized.

Entry points: `SampledVideo` reads a chunk at a time, `load_video` all at once, and `read_frames`
the frames on screen at given times. The file is read in one pass. Only the wanted frames are
converted, and none is kept at full size, so memory does not grow with the video. Times are
presentation times counted from the first frame, because index / fps is wrong for a variable frame
rate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.all_frames import DamagedVideoWarning, OnDecodeError, images_of_all_frames
from lit_hour.media.frame_conversion import FrameConverter
from lit_hour.media.published_sampling import sample_published
from lit_hour.media.sample_times import sample_timestamps
from lit_hour.media.selective_decoding import TIMESTAMPED_CONTAINERS, decode_selected_frames
from lit_hour.media.video_probe import VideoInfo, probe
from lit_hour.types import Frames

CLIP_SLACK_SECONDS = 1.0  # by which a part may end after its video, because times are rounded


class ClipWarning(UserWarning):
    """A part of a video ends after the video."""


class KeyframeWarning(UserWarning):
    """Keyframes were returned in place of the frames on screen."""


class SampledVideo:
    """The sampled frames of a video, read in chunks, so that memory does not grow with its length.

    Attributes:
        timestamps: of the frames, in seconds.
        duration_seconds: of the video: to the end of its last packet, whether that can be decoded
            or not.
    """

    def __init__(
        self,
        video: str | Path | VideoInfo,
        config: VideoConfig,
        for_features: bool = False,
        clip_seconds: tuple[float, float] | None = None,
    ) -> None:
        """Read the header, and choose the frames.

        Args:
            video: path, or the result of `probe`.
            config: how frames are sampled.
            for_features: the features of the frames will be stored. With
                `video.sampling=published` these are other frames.
            clip_seconds: start and end of the part to sample as if it were the whole video; the
                times of its frames are counted from its start. The end may be infinite.

        Raises:
            VideoError: see `probe`; or the part begins after the end of the video.
        """
        self._config = config
        self._info = video if isinstance(video, VideoInfo) else probe(video)
        self._clip = clip_bounds(self._info, clip_seconds)
        if config.sampling == "published":
            self._info, self.timestamps, self.duration_seconds = sample_published(
                self._info, config, for_features, self._clip
            )
            return
        self.duration_seconds = self._info.duration_seconds
        if self._clip is not None:
            self.duration_seconds = self._clip[1] - self._clip[0]
        self.timestamps = sample_timestamps(
            self.duration_seconds, config.fps, config.min_frames, config.max_frames
        )

    def chunks(self, chunk_frames: int = 64) -> Iterator[Frames]:
        """Yield the frames in order, see `read_frames`.

        Raises:
            VideoError: the file is cut, or see `read_frames`.
        """
        report_fault(self._info, self._config.on_decode_error)
        if self._clip is not None:
            yield from self._clip_chunks(self._clip, chunk_frames)
            return
        yield from read_frames(
            self._info,
            self.timestamps,
            self._config.image_size,
            self._config.on_decode_error,
            chunk_frames,
            self._config.keyframes_only,
        )

    def _clip_chunks(self, clip: tuple[float, float], chunk_frames: int) -> Iterator[Frames]:
        """Yield the frames of a part, with times from its start."""
        start, end = clip
        last = math.nextafter(end, 0.0)
        chunks = read_frames(
            self._info,
            [min(start + seconds, last) for seconds in self.timestamps],
            self._config.image_size,
            self._config.on_decode_error,
            chunk_frames,
            self._config.keyframes_only,
        )
        num_read = 0
        for frames in chunks:
            times = self.timestamps[num_read : num_read + len(frames)]
            yield _timed(frames.images, times)
            num_read += len(frames)


def clip_bounds(
    info: VideoInfo, clip_seconds: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return the start and the end of a part, which ends with the video at the latest.

    A part that is the whole video remains a part.

    Raises:
        VideoError: it begins after the end of the video.
    """
    if clip_seconds is None:
        return None
    start, end = clip_seconds
    if start >= info.duration_seconds:
        raise VideoError(
            f"The part from {start:g} s to {end:g} s of {info.path} begins after its end: the video"
            f" lasts {info.duration_seconds:.2f} s. Correct the times, or give the right video."
        )
    if info.duration_seconds + CLIP_SLACK_SECONDS < end < math.inf:
        warnings.warn(
            f"The part from {start:g} s to {end:g} s of {info.path} ends after the video, which"
            f" lasts {info.duration_seconds:.2f} s. It is used up to the end of the video.",
            ClipWarning,
            stacklevel=3,
        )
    return start, min(end, info.duration_seconds)


def load_video(path: str | Path, config: VideoConfig) -> tuple[Frames, float]:
    """Return all sampled frames of a video in one tensor, and its duration in seconds.

    Returns:
        Images `(frames, 3, image_size, image_size)` uint8 with timestamps `(frames,)`, and the
        duration.

    Raises:
        VideoError: see `read_frames`.
    """
    video, size = SampledVideo(path, config), config.image_size
    num_frames, num_read = len(video.timestamps), 0
    images = torch.empty((num_frames, 3, size, size), dtype=torch.uint8)  # (frames, 3, size, size)
    for frames in video.chunks():
        images[num_read : num_read + len(frames)] = frames.images
        num_read += len(frames)
    if num_read < num_frames:
        images = images[:num_read].clone()  # a view would keep the whole buffer alive
    seconds = torch.tensor(video.timestamps[:num_read], dtype=torch.float32)  # (frames,)
    return Frames(images, seconds), video.duration_seconds


def read_frames(
    video: str | Path | VideoInfo,
    timestamps: Sequence[float],
    image_size: int,
    on_decode_error: OnDecodeError,
    chunk_frames: int = 64,
    keyframes_only: bool = False,
) -> Iterator[Frames]:
    """Yield the frames on screen at the given times, as a player shows them, in chunks.

    For H.264, only the packets that these frames need are decoded, so damage between them is not
    noticed. Threads decode and resize a little ahead, as many as this process has CPUs; they end
    with the generator.

    Args:
        video: path, or the result of `probe`.
        timestamps: seconds from the first frame, in order; several may fall on one frame.
        image_size: side in pixels of the square that each frame is resized to.
        on_decode_error: for packets that cannot be decoded: "raise" raises `VideoError` there,
            "truncate" goes on with a `DamagedVideoWarning`: the frame before them stays on screen,
            and where none follows, the chunks end early.
        chunk_frames: frames in a chunk; the last one may have fewer.
        keyframes_only: return the last keyframe before each time instead, at a fraction of the
            cost. The error in time is reported with a `KeyframeWarning`. If the encoder put
            keyframes at cuts, the keyframe begins the scene on screen. Ignored for containers
            without presentation times (avi), and from damage on.

    Yields:
        Images `(frames, 3, image_size, image_size)` uint8 with timestamps `(frames,)` float32.

    Raises:
        VideoError: the file cannot be read (see `probe`) or is damaged, or a timestamp is outside
            of it or out of order.
    """
    info = video if isinstance(video, VideoInfo) else probe(video)
    inside = all(0 <= seconds < info.duration_seconds for seconds in timestamps)
    if not inside or list(timestamps) != sorted(timestamps):
        raise VideoError(
            f"Timestamps in {info.path} must be in order, from 0 to less than"
            f" {info.duration_seconds} s."
        )
    if keyframes_only and info.container in TIMESTAMPED_CONTAINERS:
        images = _keyframe_images(info, timestamps, image_size, on_decode_error)
    else:
        images = _displayed_images(info, timestamps, image_size, on_decode_error)
    yield from _stack_images(images, timestamps, chunk_frames)


def report_fault(info: VideoInfo, on_decode_error: OnDecodeError) -> None:
    """Raise or warn if a file is cut, so that a part of a video is not taken for all of it.

    Raises:
        VideoError: it is cut, and `on_decode_error` is "raise".
    """
    if not info.fault:
        return
    fault = f"{info.path} is damaged or cut short: {info.fault}"
    if on_decode_error == "raise":
        raise VideoError(
            f"{fault}. Download it again, or set video.on_decode_error=truncate to use the"
            f" {info.duration_seconds:.1f} s that can be read."
        )
    warnings.warn(
        f"{fault}. Its first {info.duration_seconds:.1f} s are used.",
        DamagedVideoWarning,
        stacklevel=3,
    )


def _stack_images(
    images: Iterator[Tensor], timestamps: Sequence[float], chunk_frames: int
) -> Iterator[Frames]:
    """Yield images `(3, size, size)` in chunks.

    An image is copied before the next one is requested.
    """
    num_read, num_in_chunk = 0, 0
    buffer = torch.empty(0)
    for image in images:
        if num_in_chunk == 0:
            num_frames = min(chunk_frames, len(timestamps) - num_read)
            buffer = image.new_empty(num_frames, *image.shape)  # (frames, 3, size, size)
        # NumPy copies in this thread. Torch would start threads, which wait for the decoders'.
        buffer.numpy()[num_in_chunk] = image.numpy()
        num_in_chunk += 1
        if num_in_chunk == len(buffer):
            yield _timed(buffer, timestamps[num_read : num_read + num_in_chunk])
            num_read, num_in_chunk = num_read + num_in_chunk, 0
    if num_in_chunk:
        yield _timed(buffer[:num_in_chunk].clone(), timestamps[num_read : num_read + num_in_chunk])


def _timed(images: Tensor, timestamps: Sequence[float]) -> Frames:
    return Frames(images, torch.tensor(timestamps, dtype=torch.float32))  # (frames,)


def _displayed_images(
    info: VideoInfo,
    timestamps: Sequence[float],
    image_size: int,
    on_decode_error: OnDecodeError,
) -> Iterator[Tensor]:
    """Yield an image `(3, image_size, image_size)` per timestamp, as far as the video is readable.

    Where selective decoding ends early, every frame is decoded instead.
    """
    num_read = 0
    convert = FrameConverter(info.path, image_size)
    for image, _, num_times in decode_selected_frames(info, timestamps, False, convert):
        yield from [image] * num_times
        num_read += num_times
    yield from images_of_all_frames(info, timestamps, num_read, image_size, on_decode_error)


def _keyframe_images(
    info: VideoInfo, timestamps: Sequence[float], image_size: int, on_decode_error: OnDecodeError
) -> Iterator[Tensor]:
    """Yield the last keyframe before each timestamp, `(3, image_size, image_size)`."""
    num_read, early_seconds = 0, []
    convert = FrameConverter(info.path, image_size)
    for image, start, num_times in decode_selected_frames(info, timestamps, True, convert):
        yield from [image] * num_times
        times = timestamps[num_read : num_read + num_times]
        early_seconds += [abs(seconds - start) for seconds in times]
        num_read += num_times
    if early_seconds:
        warnings.warn(
            f"{info.path} was read by its keyframes: frames are"
            f" {sum(early_seconds) / num_read:.2f} s too early on average and"
            f" {max(early_seconds):.2f} s at most.",
            KeyframeWarning,
            stacklevel=2,
        )
    yield from images_of_all_frames(info, timestamps, num_read, image_size, on_decode_error)
