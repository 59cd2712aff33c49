"""Sample -> Example -> Batch: the one door into the model, for training and for answering alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_hour.config.schema import TextConfig
from lit_hour.errors import QuestionError
from lit_hour.text.chat_template import (
    build_conversation,
    time_instruction,
    tokenize_answer,
    tokenize_conversation,
)
from lit_hour.text.tokenizer import Tokenizer
from lit_hour.types import (
    IGNORE_INDEX,
    Batch,
    Conversation,
    Example,
    Features,
    Frames,
    ImageSet,
    Message,
    Question,
    Sample,
    Skipped,
    TokenizedText,
    Visual,
)


class HourLLaVAProcessor:
    """Turns samples into what the model reads, by the settings of one run and its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, settings: TextConfig) -> None:
        self.tokenizer = tokenizer
        self.config = settings

    def build_conversation(self, questions: Sequence[Question]) -> Conversation:
        """One conversation in which the questions are asked and answered in turn."""
        return build_conversation(questions, self.config)

    def build_prompt(
        self,
        question: str,
        history: Sequence[Message] = (),
        system_prompt: str = "",
        answer_start: str = "",
    ) -> Conversation:
        """A conversation that waits for the answer to a question.

        Args:
            system_prompt: in place of `text.system_prompt`, where a benchmark has one of its own.
            answer_start: words that the answer begins with.

        Raises:
            QuestionError: the question is empty.
        """
        if not question.strip():
            raise QuestionError("the question is empty: ask something")
        system = Message("system", system_prompt or self.config.system_prompt)
        return Conversation(
            (system, *history, Message("user", question)), answer_start=answer_start
        )

    def video_note(self, duration_seconds: float, num_frames: int) -> str:
        """What the model is told of a video of so many sampled frames; empty without `text.time_instruction`."""
        return (
            time_instruction(duration_seconds, num_frames) if self.config.time_instruction else ""
        )

    def tokenize(
        self, conversations: Sequence[Conversation], *, num_placeholders: int, note: str = ""
    ) -> tuple[TokenizedText, ...]:
        """The token ids of conversations about one video or picture (1), several pictures, or neither (0).

        Raises:
            QuestionError: a conversation marks the places of more or fewer pictures.
        """
        return tuple(
            tokenize_conversation(
                self.tokenizer, each, self.config, num_placeholders=num_placeholders, note=note
            )
            for each in conversations
        )

    def answer_ids(self, answer: str) -> Tensor:
        """What the model says to give an answer and no word more: `(tokens,)`."""
        return torch.tensor(tokenize_answer(self.tokenizer, answer))

    def build_example(self, sample: Sample) -> Example:
        """The token ids of every conversation beside the sample's video or pictures.

        Raises:
            QuestionError: a conversation marks the places of more or fewer pictures than the sample has.
        """
        visual, note = sample.visual, ""
        if isinstance(visual, Frames | Features):
            note = self.video_note(sample.duration_seconds, len(visual))
        texts = self.tokenize(
            sample.conversations, num_placeholders=count_placeholders(visual), note=note
        )
        return Example(sample.key, visual, texts)

    def collate(
        self,
        examples: Sequence[Example],
        *,
        positions: Sequence[int] = (),
        skipped: Sequence[Skipped] = (),
    ) -> Batch:
        """Examples padded together; without any, a batch that teaches nothing keeps the ranks in step."""
        examples = examples or [self._dummy_example()]
        texts = [text for example in examples for text in example.texts]
        lengths = torch.tensor([len(text.input_ids) for text in texts])  # (texts,)
        return Batch(
            keys=tuple(example.key for example in examples),
            visuals=tuple(example.visual for example in examples),
            visual_of_text=tuple(
                place for place, example in enumerate(examples) for _ in example.texts
            ),
            input_ids=_pad([text.input_ids for text in texts], self.tokenizer.pad_token_id or 0),
            labels=_pad([text.labels for text in texts], IGNORE_INDEX),
            question_mask=_pad([text.question_mask for text in texts], False),
            attention_mask=torch.arange(int(lengths.max())) < lengths[:, None],  # (texts, tokens)
            questions=tuple(text.questions for text in texts),
            positions=tuple(positions),
            skipped=tuple(skipped),
        )

    def _dummy_example(self) -> Example:
        return Example(
            "",
            None,
            self.tokenize([Conversation((Message("user", "nothing"),))], num_placeholders=0),
        )


def count_placeholders(visual: Visual | None) -> int:
    """How many places in a text a video or pictures take: one for each picture that is a thing of its own."""
    if visual is None:
        return 0
    return len(visual) if isinstance(visual, ImageSet) else 1


def _pad(rows: list[Tensor], value: int | bool) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)  # (texts, tokens)
