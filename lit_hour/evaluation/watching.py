"""Videos in, their frames out, a chunk at a time: read ahead by other processes while the model is at work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import IterableDataset, get_worker_info

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.types import Frames
from lit_hour.video.sampled import SampledVideo


@dataclass(frozen=True)
class Seen:
    """Some frames of a video, or its end.

    Attributes:
        number: of the video among those to be watched.
        frames: None at the end.
        num_frames: of the whole video.
        duration_seconds: of the whole video, known at the end.
        damage: at the end, why the video cannot be read.
    """

    number: int
    frames: Frames | None
    num_frames: int = 0
    duration_seconds: float = 0.0
    damage: str = ""

    def to(self, device: torch.device) -> Seen:
        """The same frames on another device."""
        return replace(self, frames=self.frames and self.frames.to(device))


class Watching(IterableDataset[Seen]):
    """The frames of some videos, one video after the other in each worker; of one that is not shown there is only the end."""

    def __init__(self, files: Sequence[tuple[int, Path | None]], settings: VideoConfig, chunk_frames: int) -> None:
        """Args: files: the number and the file of each video."""
        self._files, self._chunk_frames = files, chunk_frames
        self._settings = replace(settings, min_frames=1, max_frames=1) if settings.show == "first_frame" else settings

    def __iter__(self) -> Iterator[Seen]:
        worker = get_worker_info()
        mine = self._files if worker is None else self._files[worker.id :: worker.num_workers]
        for number, file in mine:
            if file is None:
                yield Seen(number, None)
                continue
            try:
                yield from self._watch(number, file)
            except VideoError as error:
                yield Seen(number, None, damage=str(error))

    def _watch(self, number: int, file: Path) -> Iterator[Seen]:
        video = SampledVideo(file, self._settings)
        num_frames = len(video.timestamps)
        for frames in video.chunks(self._chunk_frames):
            yield Seen(number, frames, num_frames)
        yield Seen(number, None, num_frames, video.duration_seconds)
