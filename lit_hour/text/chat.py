"""Questions -> messages -> token ids with labels and question mask, in the chat format of the Qwen2 family.

<|im_start|>system\\n ... <|im_end|>\\n
<|im_start|>user\\n [video] \\n time sentence \\n question <|im_end|>\\n
<|im_start|>assistant\\n answer <|im_end|>\\n            learnt: the answer and its <|im_end|>
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from lit_hour.config.schema import TextConfig
from lit_hour.errors import QuestionError
from lit_hour.text.tokenizer import END_OF_TURN, START_OF_TURN, Tokenizer
from lit_hour.types import IGNORED_LABEL, VIDEO_PLACEHOLDER, Conversation, Message, Question, Text

ChoiceAnswer = Literal["letter", "words"]
Piece = tuple[list[int], bool, bool]  # token ids, are they learnt, may MemAug see them as part of the question


def converse(questions: Sequence[Question], settings: TextConfig) -> Conversation:
    """One conversation in which the questions are asked and answered in turn, after the system prompt.

    Raises:
        QuestionError: there is no question, or an empty one.
    """
    if not questions:
        raise QuestionError("a conversation needs at least one question")
    messages = [Message("system", settings.system_prompt)]
    for question in questions:
        messages.append(Message("user", phrase_question(question, settings.choice_answer)))
        messages.append(Message("assistant", phrase_answer(question, settings.choice_answer)))
    return Conversation(tuple(messages), tuple(questions))


def phrase_question(question: Question, choice_answer: ChoiceAnswer) -> str:
    """The words in which the model is asked, with the options of a multiple-choice question."""
    if not question.question.strip():
        raise QuestionError(f"question {question.id!r} is empty")
    if question.format == "open_ended":
        return question.question
    if choice_answer == "words":
        return "\n".join([question.question, *question.options, "Answer with one of these options."])
    options = [f"{chr(ord('A') + place)}. {option}" for place, option in enumerate(question.options)]
    return "\n".join([question.question, *options, "Answer with the letter of the right option."])


def phrase_answer(question: Question, choice_answer: ChoiceAnswer) -> str:
    """What the model should say: the letter of the right option where letters are asked for, else the answer itself."""
    return question.answer_letter if question.options and choice_answer == "letter" else question.answer


def time_sentence(duration_seconds: float, num_frames: int) -> str:
    """What the model is told about time before the first question."""
    return f"The video is {duration_seconds:.2f} seconds long; {num_frames} frames of it are shown."


def encode_conversation(tokenizer: Tokenizer, conversation: Conversation, *, video_note: str | None) -> Text:
    """Token ids of a conversation; a conversation that ends with the user ends in the header of the answer to come.

    Such a one teaches nothing, whatever was answered before.
    MemAug sees the same question in training and in answering: everything but the answers and what follows them.

    Args:
        video_note: None for a conversation without a video. Otherwise the video's placeholder and this sentence
            (which may be empty) stand in front of the first question.
    """
    ids: list[int] = []
    labels: list[int] = []
    question_mask: list[bool] = []
    for piece_ids, is_learnt, is_question in _pieces(tokenizer, conversation.messages, video_note):
        ids += piece_ids
        labels += piece_ids if is_learnt else [IGNORED_LABEL] * len(piece_ids)
        question_mask += [is_question] * len(piece_ids)
    return Text(torch.tensor(ids), torch.tensor(labels), torch.tensor(question_mask), conversation.questions)


def _pieces(tokenizer: Tokenizer, messages: Sequence[Message], video_note: str | None) -> Iterator[Piece]:
    def encode(text: str, is_said: bool = False) -> list[int]:
        # what somebody said holds no special tokens: nobody who asks can end a turn or speak for the assistant
        return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=is_said))

    end_of_turn, newline = encode(END_OF_TURN), encode("\n")
    waits_for_answer, waits_for_video = messages[-1].role == "user", video_note is not None
    for message in messages:
        is_answer = message.role == "assistant"
        yield encode(f"{START_OF_TURN}{message.role}\n"), False, True
        if message.role == "user" and waits_for_video:
            yield [VIDEO_PLACEHOLDER, *encode(f"\n{video_note}\n" if video_note else "\n")], False, True
            waits_for_video = False
        yield encode(message.text.strip(), is_said=True) + end_of_turn, is_answer and not waits_for_answer, not is_answer
        yield newline, False, not is_answer
    if waits_for_answer:
        yield encode(f"{START_OF_TURN}assistant\n"), False, True
