"""The nouns of the project: what travels from a video file to a loss or an answer.

Dimension names, used in every shape comment:
    frames   sampled frames of one video                 tokens   positions of a token sequence
    grid     patch tokens per side of a frame            dim      width of the language model
    height, width   pixels                               vision_dim  width of the vision encoder
    texts    conversations in a batch                    heads, head_dim   of an attention
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

IGNORED_LABEL = -100  # a position that the loss does not count, as torch's cross-entropy has it
VIDEO_PLACEHOLDER = -200  # the one position of input_ids that the tokens of the video take the place of

Role = Literal["system", "user", "assistant"]
QuestionFormat = Literal["open_ended", "multiple_choice"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True)
class Question:
    """A question about a video, with its true answer.

    Attributes:
        id: unique within its question file.
        task: a key of `taxonomy.TASK_OF_KEY`, or "" when the source does not say.
        options: of a multiple-choice question, in the order shown; empty for an open-ended one.
        answer: the text of the answer; one of `options` for a multiple-choice question.
        evidence: where in the video the answer is found, as (start, end) in seconds.
    """

    id: str
    task: str
    format: QuestionFormat
    question: str
    answer: str
    options: tuple[str, ...] = ()
    evidence: tuple[tuple[float, float], ...] = ()

    @property
    def answer_letter(self) -> str:
        """The letter of the right option: "A" for the first. Multiple choice only."""
        return chr(ord("A") + self.options.index(self.answer))


@dataclass(frozen=True)
class Conversation:
    """The messages of one sequence that the language model reads, and the questions that they ask, in order."""

    messages: tuple[Message, ...]
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Frames:
    """Sampled pictures of a video: `images` `(frames, 3, height, width)` uint8, `timestamps` `(frames,)` in seconds."""

    images: Tensor
    timestamps: Tensor

    def __len__(self) -> int:
        return len(self.timestamps)

    def to(self, device: torch.device) -> Frames:
        """The same frames on another device."""
        return Frames(self.images.to(device, non_blocking=True), self.timestamps.to(device, non_blocking=True))


@dataclass(frozen=True)
class Features:
    """A video that the vision encoder has seen already.

    `tokens` `(frames, tokens, vision_dim)` before the projector, `timestamps` `(frames,)` in seconds.
    """

    tokens: Tensor
    timestamps: Tensor

    def __len__(self) -> int:
        return len(self.timestamps)

    def to(self, device: torch.device) -> Features:
        """The same features on another device."""
        return Features(self.tokens.to(device, non_blocking=True), self.timestamps.to(device, non_blocking=True))


Video = Frames | Features


@dataclass(frozen=True)
class Sample:
    """One video and the conversations about it. `video` is None for a conversation without one."""

    key: str
    source: str
    duration_seconds: float
    video: Video | None
    conversations: tuple[Conversation, ...]


@dataclass(frozen=True)
class Text:
    """A conversation as token ids, each `(tokens,)`.

    `labels` are the ids to learn and `IGNORED_LABEL` elsewhere; `question_mask` is true where MemAug may see the token
    as part of the question; `questions` are those that the conversation asks.
    """

    input_ids: Tensor
    labels: Tensor
    question_mask: Tensor
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Example:
    """What the processor makes of one sample: a video that is read once, and every text that asks about it."""

    key: str
    video: Video | None
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Examples padded together.

    Videos stay a list, one for each example; texts are padded on the right to the longest.

    Attributes:
        keys: of the videos, in order.
        positions: of each video's sample in the global order of the data; empty when there is no such order.
        videos: one for each key.
        video_of_text: `(texts,)` for each text, which of `videos` it asks about.
        input_ids: `(texts, tokens)`.
        labels: `(texts, tokens)`.
        question_mask: `(texts, tokens)` bool.
        attention_mask: `(texts, tokens)` bool, false in the padding.
        questions: of each text.
        skipped: samples that should have been here and could not be read.
    """

    keys: tuple[str, ...]
    videos: tuple[Video | None, ...]
    video_of_text: tuple[int, ...]
    input_ids: Tensor
    labels: Tensor
    question_mask: Tensor
    attention_mask: Tensor
    questions: tuple[tuple[Question, ...], ...]
    positions: tuple[int, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on another device."""
        return replace(
            self,
            videos=tuple(None if video is None else video.to(device) for video in self.videos),
            input_ids=self.input_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            question_mask=self.question_mask.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Repository:
    """Every token of a video, the memory that MemAug looks back into.

    Attributes:
        tokens: `(frames * (grid * grid + 1), dim)`: for each frame its tokens in raster order, then the frame-end token.
        positions: `(frames * (grid * grid + 1),)` the rotary position of each token.
        timestamps: `(frames,)` in seconds.
        tokens_per_frame: grid * grid, without the frame-end token.
    """

    tokens: Tensor
    positions: Tensor
    timestamps: Tensor
    tokens_per_frame: int

    @property
    def num_frames(self) -> int:
        """Frames in the memory, after a short video was repeated up to the minimum."""
        return len(self.timestamps)


@dataclass(frozen=True)
class Answer:
    """What the model said about a video, what it had seen, and what it took, in seconds by part."""

    text: str
    num_frames: int
    num_memory_tokens: int
    seconds: dict[str, float]
