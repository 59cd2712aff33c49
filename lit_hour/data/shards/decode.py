"""Decode a stored sample: frames or features of a video, a tiled image, or a set of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_hour.config.schema import ImageConfig, VideoConfig
from lit_hour.data.dataloader import empty_shared
from lit_hour.data.shards.mmap import MmapFeatures
from lit_hour.data.shards.reader import StoredSample
from lit_hour.errors import ImageError, ShardError, VideoError
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.media.transforms import decode_jpeg
from lit_hour.types import Features, Frames, Visual


def load_visual(stored: StoredSample, video: VideoConfig, image: ImageConfig) -> Visual | None:
    """Decode the visual part of a stored sample; None for a text, and if `video.frames` is "none".

    Raises:
        ShardError: a frame or an image cannot be decoded.
    """
    if video.frames == "none":
        return None
    try:
        match stored.modality:
            case "video":
                max_frames = 1 if video.frames == "first" else video.max_frames
                if stored.tokens is not None:
                    return load_features(stored, max_frames)
                return load_frames(stored, video.image_size, max_frames)
            case "image":
                ((name, data),) = stored.images
                return load_tiled_image(data, name, video.image_size, image)
            case "images":
                return load_image_set(stored.images, video.image_size)
            case "text":
                return None
    except ImageError as error:
        raise ShardError(f"{stored.location}: {error}") from error


def load_frames(stored: StoredSample, image_size: int, max_frames: int) -> Frames:
    """Decode a video's frames, at most `max_frames` evenly spaced ones.

    Returns:
        `images` `(frames, 3, image_size, image_size)` uint8, `timestamps` `(frames,)` in seconds.

    Raises:
        ShardError: a JPEG cannot be decoded or has another size.
    """
    num_frames = len(stored.images)
    frames = evenly_spaced_indices(num_frames, min(num_frames, max_frames), "exact")
    timestamps = torch.tensor([stored.timestamps_seconds[frame] for frame in frames])  # (frames,)
    return Frames(decode_frames(stored, frames, image_size), timestamps)


def load_features(stored: StoredSample, max_frames: int) -> Features:
    """Load a video's features, of at most `max_frames` evenly spaced frames.

    They are bf16 whatever the stored precision. Sending int8 to the GPU would save a few hundredths
    of a second per hour of video, and the model would have to know how tokens are stored.

    Returns:
        `tokens` `(frames, tokens, vision_dim)` bf16, `timestamps` `(frames,)` in seconds.
    """
    assert stored.tokens is not None
    num_frames = len(stored.tokens)
    frames = evenly_spaced_indices(num_frames, min(num_frames, max_frames), "exact")
    timestamps = torch.tensor([stored.timestamps_seconds[frame] for frame in frames])  # (frames,)
    tokens = stored.tokens if len(frames) == num_frames else stored.tokens[frames]
    if tokens.mmap_slice is not None and tokens.scales is None:
        return MmapFeatures(tokens.tokens, timestamps, tokens.mmap_slice)
    return Features(tokens.expand(), timestamps)


def decode_frames(stored: StoredSample, frames: Sequence[int], image_size: int) -> Tensor:
    """Decode some frames of a video: `(frames, 3, image_size, image_size)` uint8.

    Raises:
        ShardError: a JPEG cannot be decoded or has another size.
    """
    shape = (len(frames), 3, image_size, image_size)
    images = empty_shared(shape, torch.uint8)  # (frames, 3, image_size, image_size)
    for image, frame in zip(images, frames, strict=True):
        name, jpeg = stored.images[frame]
        try:
            decode_jpeg(jpeg, image_size, name, image)
        except VideoError as error:
            raise ShardError(f"{stored.location}: {name} cannot be decoded: {error}") from error
    return images
