"""The nouns of the project: what travels from a video file to a loss or an answer.

Dimension names, used in every shape comment:
    frames   sampled frames of one video                 tokens   positions of a token sequence
    tiles    pieces of one picture, the whole of it first  images  pictures of one conversation
    grid     patch tokens per side of a frame            dim      width of the language model
    rows, columns   of tokens or tiles                   vision_dim  width of the vision encoder
    height, width   pixels                               heads, head_dim   of an attention
    texts    conversations in a batch
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if (
    TYPE_CHECKING
):  # the nouns name tensors and make none: who reads questions alone should not wait for torch
    import torch
    from torch import Tensor

IGNORE_INDEX = -100  # a position that the loss does not count, as torch's cross-entropy has it
IMAGE_TOKEN_INDEX = (
    -200
)  # a position of input_ids that the tokens of a video or a picture take the place of
IMAGE_TOKEN = "<image>"  # where one of several pictures stands in the words of a question, as LLaVA's files write it

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
    """The messages of one sequence that the language model reads, and the questions that they ask, in order.

    Attributes:
        answer_start: words that the answer to come begins with, where somebody puts them in the model's mouth.
    """

    messages: tuple[Message, ...]
    questions: tuple[Question, ...] = ()
    answer_start: str = ""


@dataclass(frozen=True)
class Frames:
    """Sampled pictures of a video: `images` `(frames, 3, height, width)` uint8, `timestamps` `(frames,)` in seconds."""

    images: Tensor
    timestamps: Tensor

    def __len__(self) -> int:
        return len(self.timestamps)

    def to(self, device: torch.device) -> Frames:
        """The same frames on another device."""
        return Frames(
            self.images.to(device, non_blocking=True), self.timestamps.to(device, non_blocking=True)
        )


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
        return Features(
            self.tokens.to(device, non_blocking=True), self.timestamps.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class TiledImage:
    """One picture in its own resolution: the whole of it, then the pieces of a grid row by row.

    Attributes:
        tiles: `(1 + rows * columns, 3, side, side)` uint8; the grid was letterboxed, the whole was not.
        grid: rows and columns.
        size_pixels: height and width of the picture as it was.
    """

    tiles: Tensor
    grid: tuple[int, int]
    size_pixels: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tiles)

    def to(self, device: torch.device) -> TiledImage:
        """The same picture on another device."""
        return replace(self, tiles=self.tiles.to(device, non_blocking=True))


@dataclass(frozen=True)
class ImageSet:
    """Several pictures of one conversation, each padded to a square: `images` `(images, 3, side, side)` uint8."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> ImageSet:
        """The same pictures on another device."""
        return ImageSet(self.images.to(device, non_blocking=True))


Video = Frames | Features
Visual = (
    Video | TiledImage | ImageSet
)  # its length is the number of pictures that the vision encoder sees


@dataclass(frozen=True)
class Sample:
    """A video or pictures, and the conversations about them. `visual` is None for conversations about neither."""

    key: str
    source: str
    duration_seconds: float
    visual: Visual | None
    conversations: tuple[Conversation, ...]


@dataclass(frozen=True)
class TokenizedText:
    """A conversation as token ids, each `(tokens,)`.

    `labels` are the ids to learn and `IGNORE_INDEX` elsewhere; `question_mask` is true where MemAug may see the token
    as part of the question; `questions` are those that the conversation asks.
    """

    input_ids: Tensor
    labels: Tensor
    question_mask: Tensor
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Example:
    """What the processor makes of one sample: a video or pictures, read once, and every text that asks about them."""

    key: str
    visual: Visual | None
    texts: tuple[TokenizedText, ...]


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Examples padded together.

    Visuals stay a list, one for each example; texts are padded on the right to the longest.

    Attributes:
        keys: of the examples, in order.
        positions: of each example's sample in the global order of the data; empty when there is no such order.
        visuals: one for each key.
        visual_of_text: `(texts,)` for each text, which of `visuals` it asks about.
        input_ids: `(texts, tokens)`.
        labels: `(texts, tokens)`.
        question_mask: `(texts, tokens)` bool.
        attention_mask: `(texts, tokens)` bool, false in the padding.
        questions: of each text.
        skipped: samples that should have been here and could not be read.
    """

    keys: tuple[str, ...]
    visuals: tuple[Visual | None, ...]
    visual_of_text: tuple[int, ...]
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
            visuals=tuple(None if visual is None else visual.to(device) for visual in self.visuals),
            input_ids=self.input_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            question_mask=self.question_mask.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
        )


Thumbnail = tuple[float, bytes]  # a frame to look at: the second of the video, and the JPEG
