"""What a predictor keeps of a video or of pictures: everything that its questions have in common.

Frames of a video, chunk by chunk, in; its memory and some pictures to look at out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from lit_hour.errors import QuestionError, VideoError
from lit_hour.io.hashing import digest
from lit_hour.media.transforms import encode_jpeg
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memory_repository import CachedRepository, MemoryRepository
from lit_hour.model.streaming_repository import StreamingRepository
from lit_hour.processor import Processor
from lit_hour.types import Frames, Thumbnail, Video


@dataclass(frozen=True)
class VideoMemory:
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
    repository: MemoryRepository
    seconds: dict[str, float]
    thumbnails: tuple[Thumbnail, ...] = ()
    files_digest: str = ""
    stream: StreamingRepository | None = None

    @property
    def num_bytes(self) -> int:
        """What it takes where it is computed, with the room for what may come, and its pictures."""
        rooms = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in self._tensors()
        }
        return sum(rooms.values()) + sum(len(jpeg) for _, jpeg in self.thumbnails)

    def _tensors(self) -> list[Tensor]:
        repository = self.repository
        tensors = [repository.tokens, repository.positions, repository.timestamps]
        if isinstance(repository, CachedRepository):
            tensors += [
                tensor for each in repository.kv_caches for tensor in (each.keys, each.values)
            ]
        return tensors if self.stream is None else tensors + self.stream.buffers


def digest_files(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or of those of several."""
    digests = [digest(file) for file in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def check_continuation(
    memory: VideoMemory, video: Video, duration_seconds: float, max_frames: int
) -> StreamingRepository:
    """Where a video is added to a memory, if it may be.

    Raises:
        QuestionError: the memory is one of pictures.
        VideoError: the times do not follow on those before, or the frames are too many.
    """
    if memory.stream is None:
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
    return memory.stream


MAX_THUMBNAILS = 6
JPEG_QUALITY = 80


class VideoMemoryBuilder:
    """Builds the memory of a video from chunks of its frames, which are encoded and not kept.

    Attributes:
        repository: the frames added so far.
        thumbnails: frames that are spread over the video.
    """

    def __init__(self, model: HourLLaVA, processor: Processor, num_frames: int) -> None:
        """Args: num_frames: of the whole video."""
        self._processor = processor
        self.repository = StreamingRepository(model, num_frames)
        self.thumbnails: list[Thumbnail] = []
        self._thumbnail_indices = {
            index * (num_frames - 1) // (MAX_THUMBNAILS - 1) for index in range(MAX_THUMBNAILS)
        }

    @property
    def num_frames(self) -> int:
        """Number of frames added so far."""
        return len(self.repository)

    @torch.inference_mode()
    def add(self, frames: Frames) -> None:
        """Encode the next frames."""
        first = self.num_frames
        self.repository.append(frames)
        self.thumbnails += [
            make_thumbnail(frames, index)
            for index in range(len(frames))
            if first + index in self._thumbnail_indices
        ]

    @torch.inference_mode()
    def finalize(self, duration_seconds: float, source: str) -> VideoMemory:
        """Return the memory of the frames added so far."""
        memory = build_video_memory(self.repository, self._processor, duration_seconds, source)
        return replace(memory, thumbnails=tuple(self.thumbnails))


def build_video_memory(
    stream: StreamingRepository,
    processor: Processor,
    duration_seconds: float,
    source: str,
    num_frames: int | None = None,
) -> VideoMemory:
    """Return the memory of the first `num_frames` of a repository; of all if None."""
    num_frames = len(stream) if num_frames is None else num_frames
    return VideoMemory(
        source=source,
        duration_seconds=duration_seconds,
        num_frames=num_frames,
        num_placeholders=1,
        note=processor.video_note(duration_seconds, num_frames),
        repository=stream.repository(num_frames),
        seconds={},
        stream=stream,
    )


def make_thumbnail(frames: Frames, place: int) -> Thumbnail:
    """One of the frames, to look at."""
    return float(frames.timestamps[place]), encode_jpeg(frames.images[place].cpu(), JPEG_QUALITY)


def subsample_thumbnails(pictures: Sequence[Thumbnail]) -> tuple[Thumbnail, ...]:
    """Leave out pictures that have another one near, until they are few; the first and the last stay."""
    kept = list(pictures)
    while len(kept) > MAX_THUMBNAILS:
        kept.pop(
            min(range(1, len(kept) - 1), key=lambda place: kept[place + 1][0] - kept[place - 1][0])
        )
    return tuple(kept)
