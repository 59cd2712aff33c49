"""Append a file to a video that is remembered already: `append_part`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import VideoError
from lit_hour.inference.live_memory import check_limit, extend_within, with_duration
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.server.decode_sandbox import decode_in_sandbox
from lit_hour.server.queueing import ModelExecutor
from lit_hour.types import Frames


@dataclass(frozen=True)
class PartOfVideo:
    """A file that continues a video.

    Attributes:
        path: of the file.
        name: of the video, for messages.
        cancelled: set when the video is removed, or the request cancelled.
    """

    path: Path
    name: str
    cancelled: Event


def append_part(
    predictor: VideoPredictor,
    executor: ModelExecutor,
    settings: ServerConfig,
    part: PartOfVideo,
    memory: VideoMemory,
) -> VideoMemory:
    """Decode a file in a sandbox, and append its frames to a memory, which is not changed.

    The frames are those at the multiples of `1 / video.fps` in the whole video. The memory has at
    most `video.max_frames` frames; `thinned_indices` says which stay.

    Raises:
        VideoError: the file cannot be decoded, or has more frames than a memory.
        ConfigError: the settings permit no longer video.
        DecodingCancelledError: `part.cancelled` was set.
    """
    video = predictor.config.video
    if video.sampling != "seconds":
        raise VideoError(
            f"{part.name} cannot be continued with video.sampling={video.sampling}, which needs the"
            " end of a video. Set video.sampling=seconds."
        )
    check_limit(video.max_frames, video.max_frames)
    start_seconds = memory.duration_seconds
    with decode_in_sandbox(
        part.path,
        part.name,
        video,
        predictor.config.model.vision.encode_batch_size,
        settings,
        part.cancelled,
        start_seconds=start_seconds,
    ) as sandboxed:
        duration_seconds = start_seconds + sandboxed.duration_seconds
        for frames in sandboxed.chunks():
            # exact multiples, so that the times are those of the video in one piece
            numbers = ((frames.timestamps.double() + start_seconds) * video.fps).round()
            timestamps = (numbers / video.fps).float()  # (frames,)
            shifted = Frames(frames.images, timestamps)
            memory = executor.submit(
                extend_within, predictor, memory, shifted, duration_seconds, video.max_frames
            ).result()
    return executor.submit(with_duration, predictor, memory, duration_seconds).result()
