"""Videos in, their frames out, a chunk at a time: read ahead by other processes while the model is at work.

A memory and the questions about its video in, what the model says to each out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import IterableDataset, get_worker_info

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import QuestionError, VideoError
from lit_hour.evaluation.item import Item
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.media.frame_sampling import SampledVideo
from lit_hour.types import Conversation, Frames


@dataclass(frozen=True)
class FrameChunk:
    """Some frames of a video, or its end.

    Attributes:
        number: of the video among those to be watched.
        frames: None at the end.
        num_frames: of the whole video.
        duration_seconds: of the whole video, known at the end.
        damage: at the end, why the video cannot be read.
    """

    video_index: int
    frames: Frames | None
    num_frames: int = 0
    duration_seconds: float = 0.0
    error: str = ""

    def to(self, device: torch.device) -> FrameChunk:
        """The same frames on another device."""
        return replace(self, frames=self.frames and self.frames.to(device))


class VideoFrameStream(IterableDataset[FrameChunk]):
    """The frames of some videos, one video after the other in each worker; of one that is not shown there is only the end."""

    def __init__(
        self, files: Sequence[tuple[int, Path | None]], settings: VideoConfig, chunk_frames: int
    ) -> None:
        """Args: files: the number and the file of each video."""
        self._files, self._chunk_frames = files, chunk_frames
        self._settings = (
            replace(settings, min_frames=1, max_frames=1)
            if settings.frames == "first"
            else settings
        )

    def __iter__(self) -> Iterator[FrameChunk]:
        worker = get_worker_info()
        mine = self._files if worker is None else self._files[worker.id :: worker.num_workers]
        for number, file in mine:
            if file is None:
                yield FrameChunk(number, None)
                continue
            try:
                yield from self._watch(number, file)
            except VideoError as error:
                yield FrameChunk(number, None, error=str(error))

    def _watch(self, number: int, file: Path) -> Iterator[FrameChunk]:
        video = SampledVideo(file, self._settings)
        num_frames = len(video.timestamps)
        for frames in video.chunks(self._chunk_frames):
            yield FrameChunk(number, frames, num_frames)
        yield FrameChunk(number, None, num_frames, video.duration_seconds)


def generate_responses(
    session: VideoPredictor, memory: VideoMemory, items: Sequence[Item]
) -> Iterator[tuple[Item, str | QuestionError]]:
    """Each question with the answer, or with the error of one that does not fit beside the video."""
    settings = session.config.evaluation
    weighed = [item for item in items if item.options and settings.scoring == "loglikelihood"]
    for item in weighed:
        yield item, _most_likely_option(session, memory, item)
    generated = [item for item in items if item not in weighed]
    for start in range(0, len(generated), settings.batch_size):
        yield from _generate(session, memory, generated[start : start + settings.batch_size])


def option_continuations(item: Item, session: VideoPredictor) -> list[str]:
    """For each option what the model says to choose it: its label, or its words if the run answers own questions in words."""
    says_words = (
        session.config.evaluation.benchmark == "custom" and session.config.text.mcq_format == "text"
    )
    return list(item.options.values() if says_words else item.options)


def _most_likely_option(
    session: VideoPredictor, memory: VideoMemory, item: Item
) -> str | QuestionError:
    """The answer that the model would most likely give; of equal ones the first."""
    answers = option_continuations(item, session)
    try:
        weights = [
            each.log_probability
            for each in session.loglikelihood(memory, _build_prompt(session, item), answers)
        ]
    except QuestionError as error:
        return error
    return answers[weights.index(max(weights))]


def _generate(
    session: VideoPredictor, memory: VideoMemory, items: Sequence[Item]
) -> Iterator[tuple[Item, str | QuestionError]]:
    """What the model says to several questions; if they do not all fit, each is asked alone."""
    try:
        said = session.generate_batch(memory, [_build_prompt(session, item) for item in items])
        yield from zip(items, map(str.strip, said), strict=True)
    except QuestionError as error:
        if len(items) == 1:
            yield items[0], error
            return
        for item in items:
            yield from _generate(session, memory, [item])


def _build_prompt(session: VideoPredictor, item: Item) -> Conversation:
    return session.processor.ask(
        item.prompt, system_prompt=item.system_prompt, answer_start=item.answer_start
    )
