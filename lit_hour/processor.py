"""Tokenize samples into examples and pad these into batches, in training and inference alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_hour.config.schema import TextConfig
from lit_hour.errors import QuestionError
from lit_hour.text.chat_template import (
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
    Sample,
    Skipped,
    TokenizedText,
    Visual,
)


@dataclass(frozen=True, eq=False)
class HourLLaVAProcessor:
    """Tokenizer and text settings of a run, which turn samples into the model's inputs."""

    tokenizer: Tokenizer
    config: TextConfig

    def build_prompt(
        self,
        question: str,
        history: Sequence[Message] = (),
        system_prompt: str = "",
        answer_start: str = "",
    ) -> Conversation:
        """Build a conversation that ends with a question.

        Args:
            question: without its answer.
            history: earlier messages of the conversation.
            system_prompt: replaces `text.system_prompt`, for benchmarks that have their own.
            answer_start: text that the answer begins with.

        Raises:
            QuestionError: the question is empty.
        """
        if not question.strip():
            raise QuestionError("The question is empty.")
        system = Message("system", system_prompt or self.config.system_prompt)
        messages = (system, *history, Message("user", question))
        return Conversation(messages, answer_start=answer_start)

    def video_note(self, duration_seconds: float, num_frames: int) -> str:
        """Return the sentence on a video's length in the prompt, by `text.time_sentence`.

        Source: the published one is that of the training code of Hour-LLaVA (arXiv:2506.05332).
        """
        match self.config.time_sentence:
            case "own":
                return (
                    f"The video is {duration_seconds:.2f} seconds long;"
                    f" {num_frames} frames of it are shown."
                )
            case "published":
                return (
                    f"The video lasts for {duration_seconds:.2f} seconds, and {num_frames} frames"
                    " are uniformly sampled from it. Please answer the following questions related"
                    " to this video."
                )
            case "none":
                return ""

    def tokenize(
        self, conversations: Sequence[Conversation], *, num_placeholders: int, note: str = ""
    ) -> tuple[TokenizedText, ...]:
        """Tokenize conversations about the same video or images.

        Args:
            conversations: about the same video or images.
            num_placeholders: as `count_placeholders` returns it.
            note: as `video_note` returns it.

        Raises:
            QuestionError: a conversation has another number of `<image>` placeholders.
        """
        return tuple(
            tokenize_conversation(
                self.tokenizer,
                conversation,
                self.config,
                num_placeholders=num_placeholders,
                note=note,
            )
            for conversation in conversations
        )

    def answer_ids(self, answer: str) -> Tensor:
        """Tokenize an answer with the end token behind it: `(tokens,)`."""
        return torch.tensor(tokenize_answer(self.tokenizer, answer))

    def build_example(self, sample: Sample) -> Example:
        """Tokenize every conversation of a sample.

        Raises:
            QuestionError: a conversation has another number of `<image>` placeholders than the
                sample has images.
        """
        visual, note = sample.visual, ""
        if isinstance(visual, Frames | Features):
            note = self.video_note(sample.duration_seconds, len(visual))
        num_placeholders = count_placeholders(visual)
        texts = self.tokenize(sample.conversations, num_placeholders=num_placeholders, note=note)
        return Example(sample.key, visual, texts)

    def collate(
        self,
        examples: Sequence[Example],
        *,
        positions: Sequence[int] = (),
        skipped: Sequence[Skipped] = (),
    ) -> Batch:
        """Pad examples into a batch.

        Without examples it is a dummy without labels, for idle FSDP ranks.
        """
        if not examples:
            dummy = Conversation((Message("user", "nothing"),))
            examples = [Example("", None, self.tokenize([dummy], num_placeholders=0))]
        texts = [text for example in examples for text in example.texts]
        pad = partial(pad_sequence, batch_first=True)
        pad_id = self.tokenizer.pad_token_id or 0
        lengths = torch.tensor([len(text.input_ids) for text in texts])  # (texts,)
        return Batch(
            keys=tuple(example.key for example in examples),
            visuals=tuple(example.visual for example in examples),
            visual_of_text=tuple(
                index for index, example in enumerate(examples) for _ in example.texts
            ),
            input_ids=pad([text.input_ids for text in texts], padding_value=pad_id),
            labels=pad([text.labels for text in texts], padding_value=IGNORE_INDEX),
            question_mask=pad([text.question_mask for text in texts], padding_value=False),
            attention_mask=torch.arange(int(lengths.max())) < lengths[:, None],  # (texts, tokens)
            questions=tuple(text.questions for text in texts),
            positions=tuple(positions),
            skipped=tuple(skipped),
        )


def count_placeholders(visual: Visual | None) -> int:
    """Return how many placeholders the visual has in a text.

    It is one, or one per image of an image set.
    """
    if visual is None:
        return 0
    return len(visual) if isinstance(visual, ImageSet) else 1
