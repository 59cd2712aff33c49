"""Tokenize samples into examples and pad these into batches, in training and inference alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_hour.config.model import MemAugConfig, num_frame_times, num_kept_frames
from lit_hour.config.schema import TextConfig
from lit_hour.errors import QuestionError
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.media.subtitles import interleave_with_frames, subtitles_at
from lit_hour.text.chat_template import (
    VIDEO_NOTES,
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
    Subtitle,
    TokenizedText,
    Visual,
)

SUBTITLES_FOLLOW = "This video's subtitles are listed below:"  # as Video-MME's prompt has it


@dataclass(frozen=True, eq=False)
class HourLLaVAProcessor:
    """Tokenizer and text settings of a run, which turn samples into the model's inputs.

    Attributes:
        memaug: decides which frames forgetting keeps, for `text.subtitles=kept`.
    """

    tokenizer: Tokenizer
    config: TextConfig
    memaug: MemAugConfig = field(default_factory=MemAugConfig)

    def build_prompt(
        self,
        question: str,
        history: Sequence[Message] = (),
        system_prompt: str = "",
        answer_start: str = "",
        frame_texts: Sequence[str] = (),
    ) -> Conversation:
        """Build a conversation that ends with a question.

        Args:
            question: without its answer.
            history: earlier messages of the conversation.
            system_prompt: replaces `text.system_prompt`, for benchmarks that have their own.
            answer_start: text that the answer begins with.
            frame_texts: as `interleave_subtitles` returns them.

        Raises:
            QuestionError: the question is empty.
        """
        if not question.strip():
            raise QuestionError("The question is empty.")
        system = Message("system", system_prompt or self.config.system_prompt)
        messages = (system, *history, Message("user", question))
        return Conversation(messages, (), answer_start, tuple(frame_texts))

    def build_chat_prompt(self, messages: Sequence[Message]) -> Conversation:
        """Build a conversation from messages in any order; an answer follows the last one.

        The system prompt is `text.system_prompt`, unless the first message is another one.

        Raises:
            QuestionError: no message of the user has text.
        """
        if not any(message.role == "user" and message.text.strip() for message in messages):
            raise QuestionError("The question is empty.")
        if messages[0].role != "system":
            messages = (Message("system", self.config.system_prompt), *messages)
        return Conversation(tuple(messages), expects_answer=True)

    def video_note(self, duration_seconds: float, num_frames: int) -> str:
        """Return the sentence on a video's length in the prompt, by `text.time_sentence`."""
        note = VIDEO_NOTES[self.config.time_sentence]
        return note.format(seconds=duration_seconds, num_frames=num_frames)

    def describe_video(
        self,
        duration_seconds: float,
        timestamps_seconds: Sequence[float],
        subtitles: Sequence[Subtitle] = (),
    ) -> str:
        """Return the text on a video in the prompt: the sentence on its length, and subtitles.

        Training, `ask`, the server and evaluation all take it from here.

        Args:
            duration_seconds: of the video.
            timestamps_seconds: of its sampled frames.
            subtitles: of the video; `text.subtitles` decides which are in the text.
        """
        note = self.video_note(duration_seconds, len(timestamps_seconds))
        lines = self._subtitle_lines(timestamps_seconds, subtitles)
        parts = [note, *([SUBTITLES_FOLLOW, *lines] if lines else [])]
        return "\n".join(filter(None, parts))

    def _subtitle_lines(
        self, timestamps_seconds: Sequence[float], subtitles: Sequence[Subtitle]
    ) -> list[str]:
        """Return the lines of subtitles that fit in `text.max_subtitle_tokens`."""
        if self.config.subtitles == "off" or not subtitles:
            return []
        if self.config.subtitles == "kept":
            kept = kept_timestamps(timestamps_seconds, self.memaug)
            lines = subtitles_at(subtitles, kept)
        else:
            lines = [subtitle.text for subtitle in subtitles]
        num_reserved = self._num_tokens(SUBTITLES_FOLLOW)
        return [lines[index] for index in self._fit_lines(lines, num_reserved)]

    def interleave_subtitles(
        self, timestamps_seconds: Sequence[float], subtitles: Sequence[Subtitle]
    ) -> tuple[str, ...]:
        """Return the texts between the frames that forgetting keeps, as `Conversation` takes them.

        Args:
            timestamps_seconds: of the sampled frames.
            subtitles: of the video; lines that do not fit in `text.max_subtitle_tokens` are left
                out, evenly spaced.
        """
        kept = kept_timestamps(timestamps_seconds, self.memaug)
        if not kept or not subtitles:
            return ()
        between = interleave_with_frames(subtitles, kept)
        lines = [line for texts in between for line in texts]
        indices = [index for index, texts in enumerate(between) for _ in texts]
        chosen: list[list[str]] = [[] for _ in between]
        for line in self._fit_lines(lines):
            chosen[indices[line]].append(lines[line])
        return tuple(map("\n".join, chosen))

    def _fit_lines(self, lines: Sequence[str], num_reserved: int = 0) -> list[int]:
        """Return which lines are taken: all, or evenly spaced ones within the budget of tokens."""
        lengths = [self._num_tokens(line) for line in lines]
        budget = self.config.max_subtitle_tokens - num_reserved
        num_lines = len(lines)
        while num_lines:
            chosen = evenly_spaced_indices(len(lines), num_lines, "exact")
            excess = sum(lengths[index] for index in chosen) / max(budget, 1)
            if excess <= 1:
                return chosen
            num_lines = min(num_lines - 1, int(num_lines / excess))
        return []

    def _num_tokens(self, line: str) -> int:
        """Return the tokens of a line with the line break behind it."""
        ids = self.tokenizer.encode(
            f"{line}\n", add_special_tokens=False, split_special_tokens=True
        )
        return len(ids)

    def tokenize(
        self,
        conversations: Sequence[Conversation],
        *,
        num_placeholders: int,
        note: str = "",
        timestamps_seconds: Sequence[float] = (),
    ) -> tuple[TokenizedText, ...]:
        """Tokenize conversations about the same video or images.

        Args:
            conversations: about the same video or images.
            num_placeholders: as `count_placeholders` returns it.
            note: as `describe_video` returns it.
            timestamps_seconds: of the sampled frames of a video, for `text.frame_times`.

        Raises:
            QuestionError: a conversation has another number of `<image>` placeholders.
        """
        times = {
            has_texts: self._frame_times(timestamps_seconds, 1 if has_texts else None)
            for has_texts in {bool(conversation.frame_texts) for conversation in conversations}
        }
        return tuple(
            tokenize_conversation(
                self.tokenizer,
                conversation,
                self.config,
                num_placeholders=num_placeholders,
                note=note,
                frame_times=times[bool(conversation.frame_texts)],
            )
            for conversation in conversations
        )

    def _frame_times(
        self, timestamps_seconds: Sequence[float], frames_per_time: int | None = None
    ) -> list[float]:
        """Return the time of each group of frames that forgetting keeps; none unless in words.

        The first groups have a frame more where the frames cannot be divided evenly, as
        `choose_kept_tokens` divides their tokens.

        Args:
            timestamps_seconds: of the sampled frames.
            frames_per_time: None for that of the settings.
        """
        if self.config.frame_times != "text" or not timestamps_seconds:
            return []
        kept = kept_timestamps(timestamps_seconds, self.memaug)
        num_groups = num_frame_times(len(kept), frames_per_time or self.config.frames_per_time)
        groups = torch.arange(len(kept)).tensor_split(num_groups)  # (frames of the group,) each
        return [kept[int(group[0])] for group in groups]

    def answer_ids(self, answer: str) -> Tensor:
        """Tokenize an answer with the end token behind it: `(tokens,)`."""
        return torch.tensor(tokenize_answer(self.tokenizer, answer))

    def build_example(self, sample: Sample) -> Example:
        """Tokenize every conversation of a sample.

        Raises:
            QuestionError: a conversation has another number of `<image>` placeholders than the
                sample has images.
        """
        visual, note, seconds = sample.visual, "", []
        if isinstance(visual, Frames | Features):
            seconds = visual.timestamps.tolist()
            note = self.describe_video(sample.duration_seconds, seconds, sample.subtitles)
        texts = self.tokenize(
            sample.conversations,
            num_placeholders=count_placeholders(visual),
            note=note,
            timestamps_seconds=seconds,
        )
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


def kept_timestamps(timestamps_seconds: Sequence[float], memaug: MemAugConfig) -> list[float]:
    """Return the times of the frames that uniform temporal forgetting keeps, or of all with none.

    A video with fewer than `model.memaug.min_frames` frames is repeated up to this many first.
    """
    seconds = list(timestamps_seconds)
    if len(seconds) < memaug.min_frames and seconds:
        frames = evenly_spaced_indices(len(seconds), memaug.min_frames, "linspace")
        seconds = [seconds[frame] for frame in frames]
    if memaug.temporal_forgetting == "none" or not seconds:
        return seconds
    kept = num_kept_frames(len(seconds), memaug)
    return [seconds[frame] for frame in evenly_spaced_indices(len(seconds), kept, "linspace")]
