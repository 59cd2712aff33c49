"""The data classes that travel from a video file to a loss or an answer.

Dimension names, used in every shape comment:
    frames   sampled frames of one video                 tokens   positions of a token sequence
    tiles    a small view of an image, then its tiles    images   images of one conversation
    grid     patch tokens per side of a frame            dim      width of the language model
    rows, columns   of tokens or tiles                   vision_dim  width of the vision encoder
    height, width   pixels                               heads, head_dim   of an attention
    texts    conversations in a batch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:  # importing torch takes seconds, and reading questions does not need it
    import torch
    from torch import Tensor

IGNORE_INDEX = -100  # label without a loss, the default of torch's cross-entropy
IMAGE_TOKEN_INDEX = -200  # placeholder in input_ids, replaced by the tokens of a video or image
IMAGE_TOKEN = "<image>"  # placeholder of one of several images in a question, as in LLaVA's files

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
        task: a key of `taxonomy.TASK_OF_KEY`, or "" if unknown.
        question: the text with the blanks around it, which matter for the published prompt alone.
        options: of a multiple-choice question, in the order shown; empty for an open-ended one.
        answer: the text of the answer; one of `options` for a multiple-choice question.
        evidence: where in the video the answer is found, as (start, end) in seconds.
        rejected: of a preference pair, the worse answer; `answer` is the chosen one. Else "".
    """

    id: str
    task: str
    format: QuestionFormat
    question: str
    answer: str
    options: tuple[str, ...] = ()
    evidence: tuple[tuple[float, float], ...] = ()
    rejected: str = ""

    @property
    def answer_letter(self) -> str:
        """The letter of the right option: "A" for the first. Multiple choice only."""
        return self.letter_of(self.answer)

    def letter_of(self, option: str) -> str:
        """Return the letter of an option: "A" for the first."""
        return chr(ord("A") + self.options.index(option))


@dataclass(frozen=True)
class Conversation:
    """The messages of one sequence, and the questions in them, in order.

    Attributes:
        messages: alternating turns, with an optional system message first.
        questions: asked by the messages.
        answer_start: given beginning of the answer to be generated.
        frame_texts: texts before each kept frame of a video and behind the last, empty where there
            is none; without them the frames stand together.
        expects_answer: an answer is to be generated, whatever the role of the last message.
    """

    messages: tuple[Message, ...]
    questions: tuple[Question, ...] = ()
    answer_start: str = ""
    frame_texts: tuple[str, ...] = ()
    expects_answer: bool = False

    @property
    def is_prompt(self) -> bool:
        """Return whether the conversation ends with the header of an answer to be generated."""
        return self.expects_answer or self.messages[-1].role == "user"


def tensor_fields(record: Any) -> dict[str, Tensor]:
    """Return the tensors of a dataclass, of any shape, by field name."""
    import torch

    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


class TensorRecord:
    """A frozen dataclass of tensors that are copied together."""

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Replace each tensor, of any shape, by the result of a function."""
        mapped = {name: function(tensor) for name, tensor in tensor_fields(self).items()}
        return replace(self, **mapped)  # type: ignore[type-var]

    def to(self, device: torch.device) -> Self:
        """Copy the tensors to a device."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Copy the tensors to page-locked memory, from which a GPU copies by itself.

        The DataLoader calls this in a thread of its own.
        """
        return self.map_tensors(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class Frames(TensorRecord):
    """Sampled frames of a video.

    Attributes:
        images: `(frames, 3, height, width)` uint8.
        timestamps: `(frames,)` in seconds.
    """

    images: Tensor
    timestamps: Tensor

    def __len__(self) -> int:
        return len(self.timestamps)


@dataclass(frozen=True)
class Features(TensorRecord):
    """A video that the vision encoder has already encoded.

    Attributes:
        tokens: `(frames, tokens, vision_dim)`, before the projector.
        timestamps: `(frames,)` in seconds.
    """

    tokens: Tensor
    timestamps: Tensor

    def __len__(self) -> int:
        return len(self.timestamps)

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Features:
        """Apply a function to both tensors; the result of a mapped file is in memory."""
        return Features(function(self.tokens), function(self.timestamps))


@dataclass(frozen=True)
class TiledImage(TensorRecord):
    """One image at its own resolution (LLaVA's anyres): a small view, then a grid of tiles.

    Attributes:
        tiles: `(1 + rows * columns, 3, side, side)` uint8, the small view first, then the tiles row
            by row. The grid is letterboxed, the small view is not.
        grid: rows and columns.
        size_pixels: height and width of the original image.
    """

    tiles: Tensor
    grid: tuple[int, int]
    size_pixels: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tiles)


@dataclass(frozen=True)
class ImageSet(TensorRecord):
    """Several images of one conversation, each padded to a square.

    Attributes:
        images: `(images, 3, side, side)` uint8.
    """

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)


Video = Frames | Features
Visual = Video | TiledImage | ImageSet  # len() is the number of images for the vision encoder


@dataclass(frozen=True)
class Subtitle:
    """A text and the interval in which it is shown, in seconds; the end is exclusive."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True)
class Sample:
    """A video or images, and the conversations about them.

    Attributes:
        visual: None for text-only conversations.
        subtitles: of a video.
    """

    key: str
    source: str
    duration_seconds: float
    visual: Visual | None
    conversations: tuple[Conversation, ...]
    subtitles: tuple[Subtitle, ...] = ()


@dataclass(frozen=True)
class TokenizedText:
    """A conversation as token ids.

    Attributes:
        input_ids: `(tokens,)`.
        labels: `(tokens,)`, the ids to learn, IGNORE_INDEX elsewhere.
        question_mask: `(tokens,)` bool, the tokens that MemAug may see as the question.
        questions: asked in the conversation.
    """

    input_ids: Tensor
    labels: Tensor
    question_mask: Tensor
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Example:
    """A processed sample: a video or images, and every text about them."""

    key: str
    visual: Visual | None
    texts: tuple[TokenizedText, ...]


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Batch(TensorRecord):
    """Examples padded together.

    Visuals stay a list, one for each example; texts are padded on the right to the longest.

    Attributes:
        keys: of the examples, in order.
        visuals: of the examples.
        visual_of_text: for each text, the index of its visual.
        input_ids: `(texts, tokens)`.
        labels: `(texts, tokens)`.
        question_mask: `(texts, tokens)` bool.
        attention_mask: `(texts, tokens)` bool, false in the padding.
        questions: of each text.
        positions: of the examples' samples in the global order of the data; empty if there is none.
        skipped: samples of the batch that could not be read.
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

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to the tensors of the texts, of any shape, and of the visuals."""
        visuals = tuple(
            None if visual is None else visual.map_tensors(function) for visual in self.visuals
        )
        return replace(super().map_tensors(function), visuals=visuals)


Thumbnail = tuple[float, bytes]  # a frame of a video for display: its time in seconds, its JPEG
