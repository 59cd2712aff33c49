"""What a session keeps of a video or of pictures: everything that its questions have in common.

Frames of a video, chunk by chunk, in; its memory and some pictures to look at out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from lit_hour.errors import QuestionError, VideoError
from lit_hour.io.hashing import digest
from lit_hour.media.transforms import encode_jpeg
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import PreparedRepository
from lit_hour.model.streaming_repository import GrowingRepository
from lit_hour.types import Frames, Picture, Repository, Video


@dataclass(frozen=True)
class Memory:
    """A video or pictures, read once.

    Attributes:
        source: the files, for messages.
        duration_seconds: of the video; 0 for pictures.
        num_frames: sampled from the video; 0 for pictures.
        num_placeholders: places that they take in a text: 1 for a video, or the number of pictures.
        note: what a text says of the video.
        repository: all their tokens, and what each block of MemAug makes of them.
        seconds: what it took, by part: decode, encode.
        pictures: frames of the video to look at, spread over it.
        digest: SHA-256 of the files; empty where there are none, and of a video that has grown beyond its file.
        growing: where more of a video is added; None for pictures.
    """

    source: str
    duration_seconds: float
    num_frames: int
    num_placeholders: int
    note: str
    repository: Repository
    seconds: dict[str, float]
    pictures: tuple[Picture, ...] = ()
    digest: str = ""
    growing: GrowingRepository | None = None

    @property
    def num_bytes(self) -> int:
        """What it takes where it is computed, with the room for what may come, and its pictures."""
        rooms = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in self._tensors()
        }
        return sum(rooms.values()) + sum(len(jpeg) for _, jpeg in self.pictures)

    def _tensors(self) -> list[Tensor]:
        repository = self.repository
        tensors = [repository.tokens, repository.positions, repository.timestamps]
        if isinstance(repository, PreparedRepository):
            tensors += [
                tensor for each in repository.keys_values for tensor in (each.keys, each.values)
            ]
        return tensors if self.growing is None else tensors + self.growing.rooms


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or of those of several."""
    digests = [digest(file) for file in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def check_next(
    memory: Memory, video: Video, duration_seconds: float, max_frames: int
) -> GrowingRepository:
    """Where a video is added to a memory, if it may be.

    Raises:
        QuestionError: the memory is one of pictures.
        VideoError: the times do not follow on those before, or the frames are too many.
    """
    if memory.growing is None:
        raise QuestionError(f"{memory.source} is no video: only the memory of a video can grow")
    num_frames = memory.num_frames + len(video)
    if num_frames > max_frames:
        raise VideoError(
            f"{memory.source} would have {num_frames} frames in memory, more than video.max_frames={max_frames}:"
            " raise it, or begin a new memory"
        )
    seconds = [*memory.repository.timestamps[-1:].tolist(), *video.timestamps.tolist()]
    if (
        len(video) == 0
        or any(later <= earlier for earlier, later in pairwise(seconds))
        or seconds[-1] >= duration_seconds
    ):
        told = f"from {seconds[1]} to {seconds[-1]} s" if len(video) else "none"
        raise VideoError(
            f"frames to add to {memory.source} ({told}) have to rise from after {seconds[0]} s, which it has, to before its"
            f" new end at {duration_seconds} s"
        )
    return memory.growing


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
        self._shown = {
            place * (num_frames - 1) // (NUM_PICTURES - 1) for place in range(NUM_PICTURES)
        }

    @property
    def num_seen(self) -> int:
        """Frames that were added."""
        return len(self.repository)

    def add(self, frames: Frames) -> None:
        """Look at the next frames."""
        first = self.num_seen
        self.repository.add(frames)
        self.pictures += [
            take_picture(frames, place)
            for place in range(len(frames))
            if first + place in self._shown
        ]


def take_picture(frames: Frames, place: int) -> Picture:
    """One of the frames, to look at."""
    return float(frames.timestamps[place]), encode_jpeg(frames.images[place].cpu(), JPEG_QUALITY)


def thin_out(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """Leave out pictures that have another one near, until they are few; the first and the last stay."""
    kept = list(pictures)
    while len(kept) > NUM_PICTURES:
        kept.pop(
            min(range(1, len(kept) - 1), key=lambda place: kept[place + 1][0] - kept[place - 1][0])
        )
    return tuple(kept)
