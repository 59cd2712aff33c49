"""Frames of a video, chunk by chunk, in; its memory and some pictures to look at out."""

from __future__ import annotations

from collections.abc import Sequence

from lit_hour.model.growing import GrowingRepository
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.types import Frames, Picture
from lit_hour.video.transform import encode_jpeg

NUM_PICTURES = 6
JPEG_QUALITY = 80


class Recollection:
    """A video on its way into memory: its frames are encoded as they come, and not kept.

    Attributes:
        repository: what was seen.
        pictures: frames that are spread over the video.
    """

    def __init__(self, model: HourLLaVA, num_frames: int) -> None:
        self.repository = GrowingRepository(model, num_frames)
        self.pictures: list[Picture] = []
        self._shown = {place * (num_frames - 1) // (NUM_PICTURES - 1) for place in range(NUM_PICTURES)}

    @property
    def num_seen(self) -> int:
        """Frames that were added."""
        return len(self.repository)

    def add(self, frames: Frames) -> None:
        """Look at the next frames."""
        first = self.num_seen
        self.repository.add(frames)
        self.pictures += [take_picture(frames, place) for place in range(len(frames)) if first + place in self._shown]


def take_picture(frames: Frames, place: int) -> Picture:
    """One of the frames, to look at."""
    return float(frames.timestamps[place]), encode_jpeg(frames.images[place].cpu(), JPEG_QUALITY)


def thin_out(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """Leave out pictures that have another one near, until they are few; the first and the last stay."""
    kept = list(pictures)
    while len(kept) > NUM_PICTURES:
        kept.pop(min(range(1, len(kept) - 1), key=lambda place: kept[place + 1][0] - kept[place - 1][0]))
    return tuple(kept)
