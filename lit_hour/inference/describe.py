"""Describe a video over its memory: captions and events part by part, then chapters and a summary.

The video is encoded once; every question is about the same memory. Entry points: `describe_steps`
for a caller that may stop or interleave, `describe` for all of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from math import ceil

import torch
from tqdm import tqdm

from lit_hour.errors import QuestionError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.text.chapters import (
    MAX_CHAPTERS,
    SUMMARY_QUESTION,
    Passage,
    caption_question,
    events_question,
    merge_passages,
    parse_lines,
)
from lit_hour.text.tokenizer import end_of_turn_id

MAX_PARTS = 1440  # a day in minutes


@dataclass(frozen=True)
class DescriptionParams:
    """How a video is described.

    Attributes:
        part_seconds: duration of a part with its own caption and events.
        batch_size: questions that are answered at once.
        max_chapters: limit on the chapters.
    """

    part_seconds: float = 60.0
    batch_size: int = 4
    max_chapters: int = MAX_CHAPTERS

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            QuestionError: one is out of range.
        """
        if not 1 <= self.part_seconds < float("inf"):
            raise QuestionError(f"Parts of {self.part_seconds} s are invalid. Give 1 s or more.")
        for name in ("batch_size", "max_chapters"):
            if getattr(self, name) < 1:
                raise QuestionError(f"{name}={getattr(self, name)} is invalid. Give 1 or more.")


@dataclass(frozen=True)
class Progress:
    """Questions of a description that are answered."""

    num_answered: int
    num_questions: int


@dataclass(frozen=True)
class Description:
    """What happens in a video.

    Attributes:
        source: of the memory.
        duration_seconds: of the video.
        summary: of the video.
        chapters: neighboring parts that belong together, without gaps.
        captions: of the parts.
        events: with their own times, in order, each once.
    """

    source: str
    duration_seconds: float
    summary: str
    chapters: tuple[Passage, ...]
    captions: tuple[Passage, ...]
    events: tuple[Passage, ...]


def describe(
    predictor: VideoPredictor,
    memory: VideoMemory,
    params: DescriptionParams | None = None,
    show_progress: bool = False,
) -> Description:
    """Describe a video, with a progress bar if `show_progress`; see `describe_steps`."""
    steps = describe_steps(predictor, memory, params or DescriptionParams())
    disable = None if show_progress else True  # None for a terminal alone
    with tqdm(desc="describing", unit="question", leave=False, disable=disable) as bar:
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                description: Description = end.value
                return description
            bar.total = progress.num_questions
            bar.update(progress.num_answered - bar.n)


def describe_steps(
    predictor: VideoPredictor, memory: VideoMemory, params: DescriptionParams
) -> Generator[Progress, None, Description]:
    """Describe a video, one generated token of a batch at a time.

    Args:
        predictor: that encoded the video.
        memory: of a video.
        params: how it is described.

    Yields:
        The progress, after each token.

    Returns:
        The description. An answer has at most `generation.max_new_tokens` tokens.

    Raises:
        QuestionError: the memory is one of images, or there are too many parts.
    """
    parts = split_into_parts(memory, params.part_seconds)
    questions = [
        *(caption_question(*part) for part in parts),
        *(events_question(*part) for part in parts),
        SUMMARY_QUESTION,
    ]
    answers: list[str] = []
    while len(answers) < len(questions):
        batch = questions[len(answers) : len(answers) + params.batch_size]
        for _ in (steps := _Answers(predictor, memory, batch)):
            yield Progress(len(answers), len(questions))
        answers += steps.texts
    captions = [
        Passage(*part, " ".join(text.split()))
        for part, text in zip(parts, answers[: len(parts)], strict=True)
    ]
    listed = zip(parts, answers[len(parts) : -1], strict=True)
    events = chain.from_iterable(
        parse_lines(text, *part, memory.duration_seconds) for part, text in listed
    )
    return Description(
        source=memory.source,
        duration_seconds=memory.duration_seconds,
        summary=" ".join(answers[-1].split()),
        chapters=tuple(merge_passages(captions, params.max_chapters)),
        captions=tuple(captions),
        events=tuple(_drop_repeated(events)),
    )


def split_into_parts(memory: VideoMemory, part_seconds: float) -> list[tuple[float, float]]:
    """Return the start and end of each part of a video; the last one may be shorter.

    Raises:
        QuestionError: the memory is one of images, or there are too many parts.
    """
    duration_seconds = memory.duration_seconds
    if not memory.num_frames:
        raise QuestionError(f"{memory.source} is not a video. Only a video can be described.")
    num_parts = ceil(duration_seconds / part_seconds)
    if num_parts > MAX_PARTS:
        raise QuestionError(
            f"{memory.source} has {num_parts} parts of {part_seconds:g} s, more than {MAX_PARTS}."
            " Make the parts longer."
        )
    bounds = [min(number * part_seconds, duration_seconds) for number in range(num_parts + 1)]
    return list(pairwise(bounds))


class _Answers:
    """Answers to several questions about one memory, one token of each at a time.

    Attributes:
        texts: the answers, after the iteration.
    """

    def __init__(
        self, predictor: VideoPredictor, memory: VideoMemory, questions: Sequence[str]
    ) -> None:
        self.texts: list[str] = []
        self._predictor, self._memory, self._questions = predictor, memory, questions

    @torch.inference_mode()
    def __iter__(self) -> Generator[None, None, None]:
        predictor = self._predictor
        tokenizer, limit = predictor.processor.tokenizer, predictor.config.generation.max_new_tokens
        conversations = [predictor.processor.build_prompt(text) for text in self._questions]
        prompts = predictor.build_prompts(self._memory, conversations)
        yield
        tokens = []
        for ids in predictor.model.llm.generate(prompts, limit, end_of_turn_id(tokenizer)):
            tokens.append(ids)  # (texts,)
            yield
        self.texts = [
            str(tokenizer.decode(ids, skip_special_tokens=True))
            for ids in torch.stack(tokens, dim=1).tolist()  # (texts, tokens)
        ]


def _drop_repeated(events: Iterable[Passage]) -> list[Passage]:
    """Return events in the order of time; one that goes on in the next part becomes one."""
    kept: list[Passage] = []
    for event in sorted(events, key=lambda event: (event.start_seconds, event.end_seconds)):
        for index, earlier in enumerate(kept):
            if earlier.text == event.text and event.start_seconds <= earlier.end_seconds:
                end_seconds = max(earlier.end_seconds, event.end_seconds)
                kept[index] = replace(earlier, end_seconds=end_seconds)
                break
        else:
            kept.append(event)
    return kept
