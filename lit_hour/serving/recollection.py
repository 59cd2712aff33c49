"""Frames of a video, chunk by chunk, in; its features and some pictures to look at out."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.types import Features, Frames, Picture
from lit_hour.video.transform import encode_jpeg

NUM_PICTURES = 6
JPEG_QUALITY = 80


class Recollection:
    """A video on its way into memory: its frames are encoded as they come, and not kept.

    Attributes:
        pictures: frames that are spread over the video.
        num_seen: frames that were added.
    """

    def __init__(self, encoder: VisionEncoder, num_frames: int) -> None:
        self.pictures: list[Picture] = []
        self._encoder = encoder
        self._shown = {place * (num_frames - 1) // (NUM_PICTURES - 1) for place in range(NUM_PICTURES)}
        self._tokens: list[Tensor] = []
        self._timestamps: list[Tensor] = []
        self.num_seen = 0

    def add(self, frames: Frames) -> None:
        """Look at the next frames."""
        self._tokens.append(self._encoder(frames.images))  # (chunk, tokens, vision_dim)
        self._timestamps.append(frames.timestamps)  # (chunk,)
        for place in range(len(frames)):
            if self.num_seen + place in self._shown:
                picture = encode_jpeg(frames.images[place].cpu(), JPEG_QUALITY)
                self.pictures.append((float(frames.timestamps[place]), picture))
        self.num_seen += len(frames)

    def features(self) -> Features:
        """All that was seen."""
        return Features(torch.cat(self._tokens), torch.cat(self._timestamps))  # (frames, tokens, vision_dim), (frames,)
