"""Bounds of the tokens that the language model reads of a sample, from the index and the settings.

The visual tokens that forgetting keeps of a video are exact, and those of an image about so. The
tokens of texts are bounded by their bytes in the index, if `data.min_bytes_per_token` is true of
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

from lit_hour.config.model import num_frame_times, num_kept_frames
from lit_hour.config.schema import Config
from lit_hour.data.sample_order import IntArray
from lit_hour.data.shards.reader import Shards
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.data.training_samples import (
    TOKENS_PER_IMAGE,
    estimate_num_tokens,
    locate_sample,
    samples_per_shard,
    split_questions,
)
from lit_hour.errors import ShardError
from lit_hour.media.anyres import choose_grid
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.time_intervals import format_frame_time
from lit_hour.tile_grid import letterbox_bars, shrunk_size
from lit_hour.types import Question

LONGEST_VIDEO = (1e6, 10**6)  # seconds and frames, as long in the prompt as any


@dataclass(frozen=True)
class SampleLengths:
    """Tokens of samples, `(samples,)` each; texts and visual tokens are bounded from above.

    Attributes:
        num_texts: conversations of a sample.
        longest: tokens of its longest conversation for the language model.
        total: tokens of all its conversations for the language model.
        cost: estimated tokens of repository and texts, as for length balancing.
    """

    num_texts: IntArray
    longest: IntArray
    total: IntArray
    cost: IntArray

    def __getitem__(self, samples: IntArray) -> SampleLengths:
        """Return the lengths of some samples, by their indices."""
        return SampleLengths(*(column[samples] for column in vars(self).values()))

    @classmethod
    def concatenate(cls, parts: Sequence[SampleLengths]) -> SampleLengths:
        """Return the lengths of the samples of all parts, in order."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class TemplateLengths:
    """Tokens of a conversation besides the text of its questions and answers.

    Attributes:
        conversation: of the system prompt.
        turn: of each question with its answer.
        video_note: of the sentence on a video's length.
        placeholder: of what follows the placeholder of a video or image.
        frame_time: of the words of a frame's time, without its number.
    """

    conversation: int
    turn: int
    video_note: int
    placeholder: int
    frame_time: int

    @classmethod
    def measure(cls, processor: HourLLaVAProcessor) -> TemplateLengths:
        """Measure them with the tokenizer and the text settings of a run."""

        def num_tokens(num_questions: int, num_placeholders: int = 0, note: str = "") -> int:
            question = Question("", "", "open_ended", "?", "!")
            conversation = build_conversation([question] * num_questions, processor.config)
            (text,) = processor.tokenize(
                [conversation], num_placeholders=num_placeholders, note=note
            )
            return len(text.input_ids)

        one, turn = num_tokens(1), num_tokens(2) - num_tokens(1)
        note = processor.video_note(*LONGEST_VIDEO)
        # A digit more is a token more, at most; a tokenizer may have a token for a round number.
        num_digits = sum(character.isdigit() for character in note)
        return cls(
            conversation=one - turn,
            turn=turn,
            video_note=num_tokens(1, 0, note) - one + num_digits if note else 0,
            placeholder=num_tokens(1, 1) - one - 1,
            frame_time=len(
                processor.tokenizer.encode(format_frame_time(0.0), add_special_tokens=False)
            ),
        )


def bound_sample_lengths(
    shards: Shards, config: Config, template: TemplateLengths
) -> SampleLengths:
    """Bound the tokens of each training sample, in the order of the shards.

    Raises:
        ShardError: the shards were packed before the index recorded what lengths follow from.
    """
    rows = [
        row
        for index in shards.indexes
        for entry in index.entries
        for row in _bound_entry(shards, entry, config, template)
    ]
    columns = np.array(rows, np.int64).reshape(-1, 4).T  # (4, samples)
    return SampleLengths(*columns)


def describe_long_samples(shards: Shards, lengths: SampleLengths, config: Config) -> str:
    """Name the longest sample and count those that exceed the budget; empty if there is none."""
    budget = config.data.tokens_per_batch
    num_long = int((lengths.total > budget).sum())
    if not num_long:
        return ""
    longest = int(lengths.total.argmax())
    ends = np.cumsum(samples_per_shard(shards, config))  # (shards,)
    shard = int(ends.searchsorted(longest, side="right"))
    sample = longest - int(ends[shard - 1]) * (shard > 0)
    entry, _ = locate_sample(shards, shard, sample, config)
    return (
        f"{num_long} of {len(lengths.total)} samples of {shards.name} may have more than"
        f" data.tokens_per_batch={budget} tokens and are batches of their own. The longest, of"
        f" {shards.describe_location(entry)}, has up to {lengths.total[longest]}."
    )


def _bound_entry(
    shards: Shards, entry: IndexEntry, config: Config, template: TemplateLengths
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the columns of `SampleLengths` for each training sample of an entry."""
    has_size = entry.modality != "image" or entry.size_pixels
    if not has_size or len(entry.text_bytes) != entry.num_questions:
        raise ShardError(
            f"The index of {shards.describe_location(entry)} lacks text_bytes or size_pixels, which"
            " data.tokens_per_batch needs: it was packed by an earlier version. Pack again, or set"
            " data.tokens_per_batch=0 and data.batches_per_step=0."
        )
    has_visual = entry.modality != "text" and config.video.frames != "none"
    num_placeholders = (entry.num_frames if entry.modality == "images" else 1) * has_visual
    fixed = template.conversation + num_placeholders * template.placeholder
    fixed += bound_kept_tokens(entry, config) if has_visual else 0
    if entry.modality == "video" and has_visual:
        fixed += template.video_note
        fixed += config.text.max_subtitle_tokens if config.text.subtitles != "off" else 0
        # as of the note: a digit is at most a token
        num_digits = len(format_frame_time(entry.duration_seconds))
        fixed += _num_frame_times(entry, config) * (template.frame_time + num_digits)
    bytes_before = [0, *accumulate(entry.text_bytes)]
    for conversations in split_questions(entry, config):
        lengths = []
        for questions in conversations:
            num_bytes = bytes_before[questions.stop] - bytes_before[questions.start]
            num_tokens = math.ceil(num_bytes / config.data.min_bytes_per_token)
            num_tokens += fixed + template.turn * (questions.stop - questions.start)
            lengths.append(min(num_tokens, config.text.max_tokens))
        cost = estimate_num_tokens(entry, conversations, config)
        yield len(lengths), max(lengths), sum(lengths), cost


def bound_kept_tokens(entry: IndexEntry, config: Config) -> int:
    """Return the visual tokens that forgetting keeps: exact, or of an image at most so many."""
    memaug = config.model.memaug
    if entry.modality == "video":
        side = config.model.vision.grid
        return _num_kept_frames(entry, config) * (_bound_kept(side, side, config) + 1)
    side = math.isqrt(TOKENS_PER_IMAGE)
    if entry.modality == "images":
        return entry.num_frames * (_bound_kept(side, side, config) + 1)
    height, width = _tile_grid(
        entry.size_pixels, config.video.image_size, config.image.max_grid, config.image.max_tiles
    )
    kept = _bound_kept(height, width, config)
    newlines = min(height, kept)  # in a random choice every row may have a token, and a newline
    if memaug.spatial_forgetting == "uniform":
        newlines = _bound_kept(height, 1, config)
    return _bound_kept(side, side, config) + kept + newlines


def _num_kept_frames(entry: IndexEntry, config: Config) -> int:
    """Return the frames of a video that forgetting keeps."""
    num_frames = 1 if config.video.frames == "first" else entry.num_frames
    num_frames = max(min(num_frames, config.video.max_frames), config.model.memaug.min_frames)
    return num_kept_frames(num_frames, config.model.memaug)


def _num_frame_times(entry: IndexEntry, config: Config) -> int:
    """Return the times in words before the kept frames of a video."""
    if config.text.frame_times != "text":
        return 0
    return num_frame_times(_num_kept_frames(entry, config), config.text.frames_per_time)


@lru_cache(maxsize=2**20)  # choosing a grid takes 50 us; many images have the same size
def _tile_grid(
    size_pixels: tuple[int, ...], image_size: int, max_grid: int, max_tiles: int
) -> tuple[int, int]:
    """Return height and width in tokens of an image's tiles: cropped and shrunk as by the model."""
    side = math.isqrt(TOKENS_PER_IMAGE)
    pixels_high, pixels_wide = size_pixels
    rows, columns = choose_grid(pixels_wide, pixels_high, image_size, max_grid)
    height, width = rows * side, columns * side
    bar_rows, bar_columns = letterbox_bars(height, width, (pixels_high, pixels_wide))
    return shrunk_size(height - 2 * bar_rows, width - 2 * bar_columns, max_tiles * side**2)


def _bound_kept(rows: int, columns: int, config: Config) -> int:
    """Return the tokens that spatial forgetting keeps of a grid, without newlines."""
    memaug = config.model.memaug
    match memaug.spatial_forgetting:
        case "none":
            return rows * columns
        case "random":
            return math.ceil(memaug.spatial_keep_ratio * (rows * columns))
        case "uniform":
            stride = round(memaug.spatial_keep_ratio**-0.5)
            return math.ceil(rows / stride) * math.ceil(columns / stride)
