"""Cut the questions of a stored sample into training samples, and estimate the cost of each.

A training sample is an entry of a shard with up to `data.conversations_per_video` conversations of
up to `data.questions_per_sample` consecutive questions each. Everything here follows from the index
and the settings alone, so that no shard is read for it. `shards/README.md` specifies the rules.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lit_hour.config.model import num_kept_frames
from lit_hour.config.schema import Config
from lit_hour.data.questions.record import MULTI_RECORD_MODALITIES
from lit_hour.data.shards.reader import Shards
from lit_hour.data.shards.shard_index import IndexEntry

TOKENS_PER_IMAGE = 27 * 27  # of an unpooled image, by the vision encoder of the published model
TOKENS_PER_QUESTION = 60  # with its answer; the index does not record the length of texts
# Cost of a visual token that MemAug's query and the language model read, where a token of the
# repository costs 1. By operations of the 3B model it is 2 to 4 for videos of 3 to 60 minutes that
# are read as frames (tests/benchmarks/speed/questions/operations.py).
KEPT_TOKEN_WEIGHT = 3

IntArray = NDArray[np.int64]


def split_questions(entry: IndexEntry, config: Config) -> list[list[slice]]:
    """Return which of an entry's questions each conversation of each training sample contains.

    A text or image set is a single conversation, which is not cut.
    """
    num_questions = config.data.questions_per_sample
    if entry.modality not in MULTI_RECORD_MODALITIES:
        num_questions = max(entry.num_questions, 1)
    conversations = [
        slice(first, min(first + num_questions, entry.num_questions))
        for first in range(0, entry.num_questions, num_questions)
    ]
    size = conversations_per_sample(entry, config)
    return [conversations[first : first + size] for first in range(0, len(conversations), size)]


def conversations_per_sample(entry: IndexEntry, config: Config) -> int:
    """Return the largest number of conversations in a training sample about an entry.

    With `data.conversations_per_video=0` they have together about `text.max_tokens` tokens for the
    language model: a single conversation may be as long, so it is known to fit.
    """
    if config.data.conversations_per_video:
        return config.data.conversations_per_video
    text_tokens = config.data.questions_per_sample * TOKENS_PER_QUESTION
    return max(1, config.text.max_tokens // (estimate_kept_tokens(entry, config) + text_tokens))


def samples_per_shard(shards: Shards, config: Config) -> tuple[int, ...]:
    """Return the number of training samples of each shard."""
    return tuple(
        sum(len(split_questions(entry, config)) for entry in index.entries)
        for index in shards.indexes
    )


def locate_sample(
    shards: Shards, shard: int, sample: int, config: Config
) -> tuple[IndexEntry, list[slice]]:
    """Return the entry of a training sample, and the questions of each of its conversations.

    Raises:
        IndexError: the shard has fewer samples.
    """
    num_before = 0
    for entry in shards.indexes[shard].entries:
        samples = split_questions(entry, config)
        if sample < num_before + len(samples):
            return entry, samples[sample - num_before]
        num_before += len(samples)
    raise IndexError(f"Shard {shard} of {shards.name} has {num_before} samples, not {sample + 1}.")


def sample_costs(shards: Shards, config: Config) -> tuple[IntArray, ...]:
    """Return the estimated tokens of each sample of each shard: `(samples,)` for each shard."""
    return tuple(
        np.array(
            [
                estimate_num_tokens(entry, conversations, config)
                for entry in index.entries
                for conversations in split_questions(entry, config)
            ],
            np.int64,
        )
        for index in shards.indexes
    )


def estimate_num_tokens(entry: IndexEntry, conversations: list[slice], config: Config) -> int:
    """Estimate the cost of a sample from its index entry, in tokens of a repository.

    The repository counts once, with what the first conversation takes from it, and each question
    with its answer. Each further conversation adds the visual tokens that are read once more.
    """
    num_questions = sum(questions.stop - questions.start for questions in conversations)
    kept = estimate_kept_tokens(entry, config) if len(conversations) > 1 else 0
    return (
        _repository_tokens(entry, config)
        + (len(conversations) - 1) * KEPT_TOKEN_WEIGHT * kept
        + num_questions * TOKENS_PER_QUESTION
    )


def estimate_kept_tokens(entry: IndexEntry, config: Config) -> int:
    """Estimate the visual tokens of an entry that forgetting keeps for the language model."""
    memaug = config.model.memaug
    share = 1.0 if memaug.spatial_forgetting == "none" else memaug.spatial_keep_ratio
    if entry.modality != "video":
        return math.ceil(_repository_tokens(entry, config) * share)
    num_frames = num_kept_frames(max(entry.num_frames, memaug.min_frames), memaug)
    return num_frames * (math.ceil(config.model.vision.grid**2 * share) + 1)


def _repository_tokens(entry: IndexEntry, config: Config) -> int:
    match entry.modality:
        case "video":
            num_frames = max(entry.num_frames, config.model.memaug.min_frames)
            return num_frames * (config.model.vision.grid**2 + 1)
        case "image":
            return (1 + config.image.max_tiles) * TOKENS_PER_IMAGE
        case "images" | "text":  # for a text one black image is encoded
            return max(entry.num_frames, 1) * TOKENS_PER_IMAGE
