"""Questions -> messages -> token ids with labels and question mask, in the chat format of the Qwen2 family.

<|im_start|>system\\n ... <|im_end|>\\n
<|im_start|>user\\n [video] \\n time sentence \\n question <|im_end|>\\n
<|im_start|>assistant\\n answer <|im_end|>\\n            learnt: the answer and its <|im_end|>, or more by text.loss_on_template
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Literal

import torch

from lit_hour.config.schema import TextConfig
from lit_hour.errors import QuestionError
from lit_hour.text.tokenizer import END_OF_TURN, START_OF_TURN, Tokenizer
from lit_hour.types import (
    IGNORE_INDEX,
    IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
    Conversation,
    Message,
    Question,
    TokenizedText,
)

ChoiceAnswer = Literal["letter", "text"]
Part = Literal["prompt", "answer header", "answer", "answer's line end"]


def build_conversation(questions: Sequence[Question], settings: TextConfig) -> Conversation:
    """One conversation in which the questions are asked and answered in turn, after the system prompt.

    Raises:
        QuestionError: there is no question, or an empty one.
    """
    if not questions:
        raise QuestionError("a conversation needs at least one question")
    messages = [Message("system", settings.system_prompt)]
    for question in questions:
        messages.append(Message("user", format_question(question, settings.mcq_format)))
        messages.append(Message("assistant", format_answer(question, settings.mcq_format)))
    return Conversation(tuple(messages), tuple(questions))


def format_question(question: Question, choice_answer: ChoiceAnswer) -> str:
    """The words in which the model is asked, with the options of a multiple-choice question."""
    if not question.question.strip():
        raise QuestionError(f"question {question.id!r} is empty")
    if question.format == "open_ended":
        return question.question
    if choice_answer == "text":
        return "\n".join(
            [question.question, *question.options, "Answer with one of these options."]
        )
    options = [
        f"{chr(ord('A') + place)}. {option}" for place, option in enumerate(question.options)
    ]
    return "\n".join([question.question, *options, "Answer with the letter of the right option."])


def format_answer(question: Question, choice_answer: ChoiceAnswer) -> str:
    """What the model should say: the letter of the right option where letters are asked for, else the answer itself."""
    return (
        question.answer_letter
        if question.options and choice_answer == "letter"
        else question.answer
    )


def time_sentence(duration_seconds: float, num_frames: int) -> str:
    """What the model is told about time before the first question."""
    return f"The video is {duration_seconds:.2f} seconds long; {num_frames} frames of it are shown."


def tokenize_conversation(
    tokenizer: Tokenizer,
    conversation: Conversation,
    settings: TextConfig,
    *,
    num_placeholders: int,
    note: str,
) -> TokenizedText:
    """Token ids of a conversation; a conversation that ends with the user ends in the header of the answer to come.

    Such a one teaches nothing, whatever was answered before.
    MemAug sees the same question in training and in answering, everything but the answers and what follows them, unless
    `text.loss_on_template` hides more of it in training.

    Args:
        num_placeholders: 0 for text only, 1 for a video or a picture, or the number of pictures. They stand in front of the
            first question, a line end behind each; where several pictures have their marks, these are their places.
        note: what the model is told of a video behind its placeholder; it may be empty.

    Raises:
        QuestionError: there are marks, but not as many as pictures.
    """
    is_taught = conversation.messages[-1].role != "user"
    learnt: Container[Part] = ("answer",) if is_taught else ()
    template: list[int] = []
    if is_taught and settings.loss_on_template:
        learnt = ("answer header", "answer", "answer's line end")
        template = _tokenize(tokenizer, f"{START_OF_TURN}{END_OF_TURN}\n")
    ids: list[int] = []
    labels: list[int] = []
    question_mask: list[bool] = []
    for part, turn, part_ids in _parts(tokenizer, conversation, num_placeholders, note):
        is_seen = part in ("prompt", "answer header") and (
            turn <= 1 or settings.memaug_question_scope == "all"
        )
        is_learnt = [part in learnt or number in template for number in part_ids]
        ids += part_ids
        labels += [
            number if learn else IGNORE_INDEX
            for number, learn in zip(part_ids, is_learnt, strict=True)
        ]
        question_mask += [is_seen and not learn for learn in is_learnt]
    return TokenizedText(
        torch.tensor(ids), torch.tensor(labels), torch.tensor(question_mask), conversation.questions
    )


def tokenize_answer(tokenizer: Tokenizer, answer: str) -> list[int]:
    """Token ids of an answer, and of the end of the turn."""
    return _tokenize_untrusted(tokenizer, answer, are_marked=False) + _tokenize(
        tokenizer, END_OF_TURN
    )


def _parts(
    tokenizer: Tokenizer, conversation: Conversation, num_placeholders: int, note: str
) -> Iterator[tuple[Part, int, list[int]]]:
    """Each part of the conversation: what it is, how many questions were asked up to it, its token ids."""
    messages = conversation.messages
    are_marked = _has_placeholders(messages, num_placeholders)
    end_of_turn, newline = _tokenize(tokenizer, END_OF_TURN), _tokenize(tokenizer, "\n")
    turn = 0
    for message in messages:
        header = _tokenize(tokenizer, f"{START_OF_TURN}{message.role}\n")
        said = _tokenize_untrusted(
            tokenizer, message.text.strip(), are_marked and message.role == "user"
        )
        if message.role == "assistant":
            yield "answer header", turn, header
            yield "answer", turn, tokenize_answer(tokenizer, message.text.strip())
            yield "answer's line end", turn, newline
            continue
        turn += message.role == "user"
        yield "prompt", turn, header
        if message.role == "user" and turn == 1:
            yield (
                "prompt",
                turn,
                [IMAGE_TOKEN_INDEX, *newline] * (0 if are_marked else num_placeholders),
            )
            yield "prompt", turn, _tokenize(tokenizer, f"{note}\n" if note else "")
        yield "prompt", turn, said + end_of_turn + newline
    if messages[-1].role == "user":
        yield "answer header", turn, _tokenize(tokenizer, f"{START_OF_TURN}assistant\n")
        yield (
            "answer",
            turn,
            _tokenize_untrusted(tokenizer, conversation.answer_start, are_marked=False),
        )


def _has_placeholders(messages: Sequence[Message], num_placeholders: int) -> bool:
    """Whether each of several pictures has its mark in what the user says; the marks of one picture or none are words."""
    num_marks = sum(
        message.text.count(IMAGE_TOKEN) for message in messages if message.role == "user"
    )
    if num_placeholders < 2 or not num_marks:
        return False
    if num_marks != num_placeholders:
        raise QuestionError(
            f"the conversation says {IMAGE_TOKEN} {num_marks} times and has {num_placeholders} pictures:"
            " it has to be there once for each of them, or not at all"
        )
    return True


def _tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False))


def _tokenize_untrusted(tokenizer: Tokenizer, text: str, are_marked: bool) -> list[int]:
    """What somebody said holds no special tokens: nobody who asks can end a turn or speak for the assistant."""
    first, *others = [
        list(tokenizer.encode(words, add_special_tokens=False, split_special_tokens=True))
        for words in (text.split(IMAGE_TOKEN) if are_marked else [text])
    ]
    return first + [number for words in others for number in (IMAGE_TOKEN_INDEX, *words)]
