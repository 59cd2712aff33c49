"""Read the frames of videos ahead, and generate the responses to the questions about a video.

`VideoFrameStream` decodes in DataLoader workers while the model computes. `generate_responses` has
the model answer from the memory of one video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import IterableDataset, get_worker_info

from lit_hour.config.schema import VideoConfig
from lit_hour.data.questions.record import Interval
from lit_hour.errors import QuestionError, VideoError
from lit_hour.evaluation.item import Item
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.media.video_reader import SampledVideo
from lit_hour.types import Conversation, Frames


@dataclass(frozen=True)
class FrameChunk:
    """Some frames of a video, or its end.

    Attributes:
        video_index: of the video in the stream.
        frames: None at the end of the video.
        num_frames: of the whole video.
        duration_seconds: of the whole video, known at its end.
        error: at the end, why the video cannot be read; "" if it can.
    """

    video_index: int
    frames: Frames | None
    num_frames: int = 0
    duration_seconds: float = 0.0
    error: str = ""

    def to(self, device: torch.device) -> FrameChunk:
        """Return the chunk with its frames on a device."""
        return replace(self, frames=self.frames and self.frames.to(device))


class VideoFrameStream(IterableDataset[FrameChunk]):
    """The sampled frames of videos in chunks, one video after the other in each worker.

    A chunk without frames ends each video. A video without a file has only this end.
    """

    def __init__(
        self,
        videos: Sequence[tuple[Path | None, Interval | None]],
        config: VideoConfig,
        chunk_frames: int,
    ) -> None:
        """Args: videos: file and part of each; chunk_frames: frames per chunk."""
        self._videos, self._chunk_frames = list(enumerate(videos)), chunk_frames
        self._config = shown_frames(config)

    def __iter__(self) -> Iterator[FrameChunk]:
        worker = get_worker_info()
        videos = self._videos if worker is None else self._videos[worker.id :: worker.num_workers]
        for video_index, (file, clip_seconds) in videos:
            if file is None:
                yield FrameChunk(video_index, None)
                continue
            try:
                yield from self._read_video(video_index, file, clip_seconds)
            except VideoError as error:
                yield FrameChunk(video_index, None, error=str(error))

    def _read_video(
        self, video_index: int, file: Path, clip_seconds: Interval | None
    ) -> Iterator[FrameChunk]:
        video = SampledVideo(file, self._config, clip_seconds=clip_seconds)
        num_frames = len(video.timestamps)
        for frames in video.chunks(self._chunk_frames):
            yield FrameChunk(video_index, frames, num_frames)
        yield FrameChunk(video_index, None, num_frames, video.duration_seconds)


def shown_frames(config: VideoConfig) -> VideoConfig:
    """Return the settings of the frames that are shown: one alone for `video.frames=first`."""
    is_first_only = config.frames == "first"
    return replace(config, min_frames=1, max_frames=1) if is_first_only else config


def generate_responses(
    predictor: VideoPredictor, memory: VideoMemory, items: Sequence[Item]
) -> Iterator[tuple[Item, str | QuestionError]]:
    """Respond to each question about a video.

    Yields:
        The question with the response, or with the error if the question does not fit beside the
        video.
    """
    settings = predictor.config.evaluation
    by_likelihood = settings.scoring == "loglikelihood"
    for item in items:
        if item.options and by_likelihood:
            yield item, _most_likely_option(predictor, memory, item)
    generated = [item for item in items if not (item.options and by_likelihood)]
    plain = [item for item in generated if not item.subtitles]
    for items in (plain, [item for item in generated if item.subtitles]):
        for start in range(0, len(items), settings.batch_size):
            yield from _generate_batch(
                predictor, memory, items[start : start + settings.batch_size]
            )


def _most_likely_option(
    predictor: VideoPredictor, memory: VideoMemory, item: Item
) -> str | QuestionError:
    """Return the continuation with the highest log-likelihood; of equal ones the first."""
    continuations = _option_continuations(predictor, item)
    try:
        likelihoods = predictor.loglikelihood(
            memory, _prompt(predictor, memory, item), continuations
        )
    except QuestionError as error:
        return error
    log_probabilities = [likelihood.log_probability for likelihood in likelihoods]
    return continuations[log_probabilities.index(max(log_probabilities))]


def _option_continuations(predictor: VideoPredictor, item: Item) -> list[str]:
    """Return the response that chooses each option: its label, or its text if trained on texts."""
    config = predictor.config
    uses_text = config.evaluation.benchmark == "custom" and config.text.mcq_format == "text"
    return list(item.options.values() if uses_text else item.options)


def _generate_batch(
    predictor: VideoPredictor, memory: VideoMemory, items: Sequence[Item]
) -> Iterator[tuple[Item, str | QuestionError]]:
    """Respond to several questions side by side, or one by one if one of them does not fit."""
    try:
        prompts = [_prompt(predictor, memory, item) for item in items]
        responses = predictor.generate_batch(memory, prompts)
        yield from zip(items, map(str.strip, responses), strict=True)
    except QuestionError as error:
        if len(items) == 1:
            yield items[0], error
            return
        for item in items:
            yield from _generate_batch(predictor, memory, [item])


def _prompt(predictor: VideoPredictor, memory: VideoMemory, item: Item) -> Conversation:
    processor = predictor.processor
    return processor.build_prompt(
        item.prompt,
        system_prompt=item.system_prompt,
        answer_start=item.answer_start,
        frame_texts=processor.interleave_subtitles(memory.timestamps_seconds, item.subtitles),
    )
