"""Decode stored samples into model inputs: video frames or features, image tiles, image sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_hour.config.schema import ImageConfig, VideoConfig
from lit_hour.data.dataloader import empty_shared
from lit_hour.data.shards.mmap import MmapFeatures
from lit_hour.data.shards.reader import StoredSample
from lit_hour.errors import ImageError, ShardError, VideoError
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.media.transforms import decode_jpeg
from lit_hour.types import Features, Frames, Visual


def load_visual(stored: StoredSample, video: VideoConfig, image: ImageConfig) -> Visual | None:
    """Decode the visual content of a stored sample.

    Returns:
        The visual input, or None for a text-only sample and for `video.frames="none"`.

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
        raise ShardError(f"{stored.location}: member {error}") from error


def load_frames(stored: StoredSample, size_pixels: int, max_frames: int) -> Frames:
    """Decode the frames of a stored video, evenly subsampled to at most `max_frames`.

    Returns:
        `images` `(frames, 3, size_pixels, size_pixels)` uint8, `timestamps` `(frames,)` in seconds.

    Raises:
        ShardError: a JPEG cannot be decoded or has the wrong size.
    """
    chosen = evenly_spaced_frames(len(stored.images), max_frames)
    return Frames(decode_frames(stored, chosen, size_pixels), _timestamps(stored, chosen))


def load_features(stored: StoredSample, max_frames: int) -> Features:
    """Load the stored features of a video, evenly subsampled to at most `max_frames` frames.

    Int8 features are dequantized to bf16 here, on the CPU. Sending int8 to the GPU would save only
    a few hundredths of a second per hour of video, and would make the model depend on the storage
    format.

    Returns:
        `tokens` `(frames, tokens, vision_dim)` bf16, `timestamps` `(frames,)` in seconds.
    """
    assert stored.tokens is not None
    chosen = evenly_spaced_frames(len(stored.tokens), max_frames)
    tokens = stored.tokens if len(chosen) == len(stored.tokens) else stored.tokens[chosen]
    if tokens.mmap_slice is not None and tokens.scales is None:
        return MmapFeatures(tokens.tokens, _timestamps(stored, chosen), tokens.mmap_slice)
    return Features(tokens.expand(), _timestamps(stored, chosen))


def decode_frames(stored: StoredSample, chosen: Sequence[int], size_pixels: int) -> Tensor:
    """Decode the chosen frames of a stored video.

    Returns:
        `(frames, 3, size_pixels, size_pixels)` uint8.

    Raises:
        ShardError: a JPEG cannot be decoded or has the wrong size.
    """
    shape = (len(chosen), 3, size_pixels, size_pixels)
    images = empty_shared(shape, torch.uint8)  # (frames, 3, size, size)
    for row, frame in enumerate(chosen):
        name, jpeg = stored.images[frame]
        try:
            decode_jpeg(jpeg, size_pixels, name, images[row])
        except VideoError as error:
            raise ShardError(
                f"{stored.location}: member {name} cannot be decoded: {error}"
            ) from error
    return images


def evenly_spaced_frames(num_frames: int, max_frames: int) -> list[int]:
    """Return the indices of at most `max_frames` evenly spaced frames."""
    num_chosen = min(num_frames, max_frames)
    return [row * (num_frames - 1) // max(num_chosen - 1, 1) for row in range(num_chosen)]


def _timestamps(stored: StoredSample, chosen: Sequence[int]) -> Tensor:
    return torch.tensor([stored.timestamps_seconds[frame] for frame in chosen])  # (frames,)
