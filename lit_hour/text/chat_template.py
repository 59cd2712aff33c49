r"""Format questions as conversations and tokenize them with the chat template of the Qwen2 family.

    <|im_start|>system\n ... <|im_end|>\n
    <|im_start|>user\n [video] \n time instruction \n question <|im_end|>\n
    <|im_start|>assistant\n answer <|im_end|>\n

`build_conversation` formats questions; `tokenize_conversation` returns token ids, labels and
question mask. Labels are on the answer and its <|im_end|>, or on more with `text.loss_on_template`.
With `text.frame_times=text` the video is `<0.0 s>[frames]<4.0 s>[frames]...`, as in Qwen3-VL.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch

from lit_hour.config.schema import TextConfig
from lit_hour.errors import QuestionError
from lit_hour.text.answer_matching import label_options
from lit_hour.text.time_intervals import format_frame_time
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

# Sentence on a video's length, by `text.time_sentence`. The published one is that of the training
# code of Hour-LLaVA (arXiv:2506.05332).
VIDEO_NOTES = {
    "own": "The video is {seconds:.2f} seconds long; {num_frames} frames of it are shown.",
    "published": "The video lasts for {seconds:.2f} seconds, and {num_frames} frames are uniformly"
    " sampled from it. Please answer the following questions related to this video.",
    "none": "",
}
McqFormat = Literal["letter", "text"]
SegmentKind = Literal["prompt", "frame time", "answer header", "answer", "answer newline"]


def build_conversation(
    questions: Sequence[Question], settings: TextConfig, system_prompt: str = ""
) -> Conversation:
    """Build one conversation with all questions and answers in turn, after the system prompt.

    This is that of the settings unless another one is given.

    `text.mcq_format` decides whether a multiple-choice question is answered by letter or by text.

    Raises:
        QuestionError: there is no question, or an empty one.
    """
    if not questions:
        raise QuestionError("A conversation needs at least one question.")
    messages = [Message("system", system_prompt or settings.system_prompt)]
    for question in questions:
        messages.append(Message("user", format_question(question, settings.mcq_format)))
        answer = format_answer(question, question.answer, settings.mcq_format)
        messages.append(Message("assistant", answer))
    return Conversation(tuple(messages), tuple(questions))


def format_question(question: Question, mcq_format: McqFormat) -> str:
    """Return the prompt of a question, with the options of a multiple-choice question.

    Raises:
        QuestionError: the question is empty.
    """
    if not question.question.strip():
        raise QuestionError(f"Question {question.id!r} is empty.")
    if question.format == "open_ended":
        return question.question
    if mcq_format == "text":
        lines = [*question.options, "Answer with one of these options."]
    else:
        options = label_options(question.options).items()
        lines = [f"{letter}. {text}" for letter, text in options]
        lines.append("Answer with the letter of the right option.")
    return "\n".join([question.question.rstrip(), *lines])


def format_answer(question: Question, answer: str, mcq_format: McqFormat) -> str:
    """Return an answer, or the letter of the option that it is."""
    return question.letter_of(answer) if question.options and mcq_format == "letter" else answer


def count_text_bytes(question: Question, system_prompt: str = "") -> int:
    """Return the UTF-8 bytes of a question, in the longer of its formats, and of its answer.

    With a byte-level tokenizer they have at most as many tokens. A system prompt of the sample's
    own counts with each question, because any of them may be the first of a conversation.
    """
    prompts = (format_question(question, mcq_format) for mcq_format in get_args(McqFormat))
    answers = (question.answer, question.rejected)
    num_bytes = max(len(prompt.encode()) for prompt in prompts) + max(
        len(answer.encode()) for answer in answers
    )
    return num_bytes + len(system_prompt.encode())


def tokenize_conversation(
    tokenizer: Tokenizer,
    conversation: Conversation,
    settings: TextConfig,
    *,
    num_placeholders: int,
    note: str,
    frame_times: Sequence[float] = (),
) -> TokenizedText:
    """Tokenize a conversation, with labels for training and the mask of what MemAug sees.

    A conversation that ends with a user turn, or `expects_answer`, is a prompt: it ends with the
    header of the answer and has no labels. MemAug sees the same tokens in training and in
    inference: all but the answers and the newline after each, unless `text.loss_on_template` hides
    more of them in training.

    Args:
        tokenizer: of the language model.
        conversation: messages in turn.
        settings: what has labels, and which questions MemAug sees.
        num_placeholders: 0 for text only, 1 for a video or an image, or the number of images. The
            placeholders precede the first question, each on a line, unless the messages place
            several images themselves, or the conversation has texts between its frames: then each
            kept frame has a placeholder.
        note: text about the video after its placeholder, as `HourLLaVAProcessor.describe_video`
            returns it; may be empty. With `text.time_sentence=published` the blanks around the
            question behind it are kept, as in the published training.
        frame_times: seconds of each group of kept frames, whose placeholder stands after the time.
            MemAug does not see the words, which would shift the positions of its visual tokens.

    Raises:
        QuestionError: the messages place images, but not as many as there are.
    """
    has_answer = not conversation.is_prompt
    labeled: Container[SegmentKind] = ("answer",) if has_answer else ()
    labeled_ids: list[int] = []
    if has_answer and settings.loss_on_template:
        labeled = ("answer header", "answer", "answer newline")
        labeled_ids = _tokenize(tokenizer, f"{START_OF_TURN}{END_OF_TURN}\n")
    ids: list[int] = []
    labels: list[int] = []
    question_mask: list[bool] = []
    keeps_blanks = bool(note) and settings.time_sentence == "published"
    for segment in _segments(
        tokenizer, conversation, num_placeholders, note, keeps_blanks, frame_times
    ):
        in_question = segment.kind in ("prompt", "answer header") and (
            segment.turn <= 1 or settings.memaug_question_scope == "all"
        )
        for token in segment.ids:
            has_label = segment.kind in labeled or token in labeled_ids
            ids.append(token)
            labels.append(token if has_label else IGNORE_INDEX)
            question_mask.append(in_question and not has_label)
    return TokenizedText(
        torch.tensor(ids),  # (tokens,)
        torch.tensor(labels),  # (tokens,)
        torch.tensor(question_mask),  # (tokens,)
        conversation.questions,
    )


def tokenize_answer(tokenizer: Tokenizer, answer: str) -> list[int]:
    """Return the token ids of an answer and of the end of its turn."""
    return _tokenize_untrusted(tokenizer, answer) + _tokenize(tokenizer, END_OF_TURN)


class _Segment(NamedTuple):
    """Consecutive tokens of a conversation; `turn` counts user turns, from 1."""

    kind: SegmentKind
    turn: int
    ids: list[int]


def _segments(
    tokenizer: Tokenizer,
    conversation: Conversation,
    num_placeholders: int,
    note: str,
    keeps_blanks: bool,
    frame_times: Sequence[float],
) -> Iterator[_Segment]:
    """Iterate over the segments of a conversation.

    With `keeps_blanks` the note and the first question are tokenized as one text, since a token may
    span the end of one and the beginning of the other.
    """
    messages = conversation.messages
    # with a video, one image or none, an image token in a message is plain text
    has_image_tokens = num_placeholders > 1 and _has_image_tokens(messages, num_placeholders)
    end_of_turn, newline = _tokenize(tokenizer, END_OF_TURN), _tokenize(tokenizer, "\n")
    turn = 0
    for message in messages:
        text = message.text.strip()
        header = _tokenize(tokenizer, f"{START_OF_TURN}{message.role}\n")
        if message.role == "assistant":
            yield _Segment("answer header", turn, header)
            yield _Segment("answer", turn, tokenize_answer(tokenizer, text))
            yield _Segment("answer newline", turn, newline)
            continue
        is_user = message.role == "user"
        turn += is_user
        ids = header
        if is_user and turn == 1:
            if conversation.frame_texts or frame_times:
                yield _Segment("prompt", turn, header)
                yield from _frame_segments(tokenizer, conversation.frame_texts, frame_times)
                ids = []
            elif not has_image_tokens:
                ids = ids + [IMAGE_TOKEN_INDEX, *newline] * num_placeholders
            if keeps_blanks:
                text = f"{note}\n{message.text}"
            elif note:
                ids = ids + _tokenize_untrusted(tokenizer, f"{note}\n")  # it may have subtitles
        split_images = has_image_tokens and is_user
        ids = ids + _tokenize_untrusted(tokenizer, text, split_images) + end_of_turn + newline
        yield _Segment("prompt", turn, ids)
    if conversation.is_prompt:
        header = _tokenize(tokenizer, f"{START_OF_TURN}assistant\n")
        yield _Segment("answer header", turn, header)
        prefix = _tokenize_untrusted(tokenizer, conversation.answer_start)
        yield _Segment("answer", turn, prefix)


def _frame_segments(
    tokenizer: Tokenizer, frame_texts: Sequence[str], frame_times: Sequence[float]
) -> Iterator[_Segment]:
    """Iterate over the placeholders of a video, with texts on lines of their own, and times.

    Args:
        tokenizer: of the language model.
        frame_texts: before each placeholder and behind the last; may be empty without times.
        frame_times: seconds, directly before each placeholder; may be empty with texts.
    """
    newline, is_line_open = _tokenize(tokenizer, "\n"), False
    num_placeholders = len(frame_times) or len(frame_texts) - 1
    for index in range(num_placeholders + 1):
        if frame_texts and frame_texts[index]:
            line = _tokenize_untrusted(tokenizer, f"{frame_texts[index]}\n")
            yield _Segment("prompt", 1, newline + line if is_line_open else line)
            is_line_open = False
        if index < num_placeholders:
            if frame_times:
                words = format_frame_time(frame_times[index])
                yield _Segment("frame time", 1, _tokenize(tokenizer, words))
            yield _Segment("prompt", 1, [IMAGE_TOKEN_INDEX])
            is_line_open = True
    if is_line_open:
        yield _Segment("prompt", 1, newline)


def _has_image_tokens(messages: Sequence[Message], num_placeholders: int) -> bool:
    """Return whether the user's messages place each of several images with an image token.

    Raises:
        QuestionError: there are image tokens, but not as many as images.
    """
    num_tokens = sum(
        message.text.count(IMAGE_TOKEN) for message in messages if message.role == "user"
    )
    if not num_tokens:
        return False
    if num_tokens != num_placeholders:
        raise QuestionError(
            f"The conversation has {IMAGE_TOKEN} {num_tokens} times and {num_placeholders} images."
            " It must have one for each image, or none."
        )
    return True


def _tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenize text of the template, special tokens included."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False))


def _tokenize_untrusted(tokenizer: Tokenizer, text: str, split_images: bool = False) -> list[int]:
    """Tokenize text from outside, in which special tokens are plain text.

    Otherwise a question could end its turn and write the answer itself (prompt injection).

    Args:
        tokenizer: of the language model.
        text: of a message.
        split_images: turn image tokens in the text into placeholders.
    """
    ids: list[int] = []
    for index, piece in enumerate(text.split(IMAGE_TOKEN) if split_images else [text]):
        if index:
            ids.append(IMAGE_TOKEN_INDEX)
        ids += tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)
    return ids
