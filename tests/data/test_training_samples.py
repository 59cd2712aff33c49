"""Training samples of stored samples: their conversations and their estimated cost."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lit_hour.config.data import DataConfig
from lit_hour.config.model import MemAugConfig, ModelConfig
from lit_hour.config.schema import Config, TextConfig
from lit_hour.data.questions.record import Modality
from lit_hour.data.shards.reader import open_shards
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.data.training_samples import (
    KEPT_TOKEN_WEIGHT,
    TOKENS_PER_IMAGE,
    TOKENS_PER_QUESTION,
    conversations_per_sample,
    estimate_kept_tokens,
    estimate_num_tokens,
    locate_sample,
    sample_costs,
    samples_per_shard,
    split_questions,
)


def settings(num_questions: int, num_conversations: int = 1, max_tokens: int = 32768) -> Config:
    return Config(
        data=DataConfig(
            questions_per_sample=num_questions, conversations_per_video=num_conversations
        ),
        text=TextConfig(max_tokens=max_tokens),
    )


def make_entry(modality: Modality, num_frames: int, num_questions: int = 7) -> IndexEntry:
    return IndexEntry("000000.tar", "a", modality, 0, 512, 0.0, num_frames, num_questions)


# Samples


def test_samples_are_groups_of_consecutive_questions(frame_shards: Path) -> None:
    shards = open_shards(frame_shards)
    assert samples_per_shard(shards, settings(1)) == (3, 7, 5)
    assert samples_per_shard(shards, settings(2)) == (2, 4, 3)
    assert samples_per_shard(shards, settings(5)) == (2, 2, 1)
    assert samples_per_shard(shards, settings(2, 2)) == (2, 2, 2)
    assert samples_per_shard(shards, settings(1, 0)) == (2, 2, 1)  # one of each video
    with pytest.raises(IndexError):
        locate_sample(shards, 0, 2, settings(2))


@pytest.mark.parametrize("num_questions", [1, 2, 5])
@pytest.mark.parametrize("num_conversations", [1, 2, 3, 0])
def test_samples_have_each_question_once(
    mixed_shards: Path, frame_shards: Path, num_questions: int, num_conversations: int
) -> None:
    config = settings(num_questions, num_conversations)
    for folder in (mixed_shards, frame_shards):
        shards = open_shards(folder)
        found: Counter[tuple[str, int]] = Counter()
        for shard, num_samples in enumerate(samples_per_shard(shards, config)):
            for sample in range(num_samples):
                entry, conversations = locate_sample(shards, shard, sample, config)
                assert 1 <= len(conversations) <= (num_conversations or 99)
                assert all(one.stop == other.start for one, other in pairwise(conversations))
                for questions in conversations:
                    found.update(
                        (entry.key, question) for question in range(questions.start, questions.stop)
                    )
        assert found == Counter(
            (entry.key, question)
            for entry in shards.entries
            for question in range(entry.num_questions)
        )


def test_last_sample_and_last_conversation_have_the_rest() -> None:
    entry = make_entry("video", 60, num_questions=11)
    assert split_questions(entry, settings(2, 4)) == [
        [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)],
        [slice(8, 10), slice(10, 11)],
    ]


def test_image_sets_and_texts_are_single_conversations(mixed_shards: Path) -> None:
    shards = open_shards(mixed_shards)
    assert samples_per_shard(shards, settings(2)) == (1 + 1 + 2, 3, 1)
    assert samples_per_shard(shards, settings(1)) == (1 + 1 + 3, 3, 1)
    assert samples_per_shard(shards, settings(1, 2)) == (1 + 1 + 2, 3, 1)
    entry, conversations = locate_sample(shards, 1, 1, settings(2, 8))
    assert entry.key == "record_00000004"
    assert conversations == [slice(0, 3)] and entry.num_questions == 3


def test_all_conversations_that_fit_share_a_sample() -> None:
    hour = make_entry("video", 3600, num_questions=118)
    tokens = 512 * 17 + 5 * TOKENS_PER_QUESTION  # for the language model, of one conversation
    for max_tokens, num in ((3 * tokens, 3), (4 * tokens - 1, 3), (100, 1), (99 * tokens, 99)):
        assert conversations_per_sample(hour, settings(5, 0, max_tokens)) == num
    assert len(split_questions(hour, settings(5, 0, 24 * tokens))) == 1
    short = make_entry("video", 128, num_questions=118)
    assert conversations_per_sample(short, settings(5, 0)) == 38


# Costs


def num_tokens(entry: IndexEntry, num_questions: int, num_conversations: int = 1) -> int:
    config = settings(num_questions, num_conversations)
    return estimate_num_tokens(entry, split_questions(entry, config)[0], config)


def test_estimated_tokens_of_each_modality() -> None:
    text = 5 * TOKENS_PER_QUESTION
    assert num_tokens(make_entry("video", 3600), 5) == 3600 * 65 + text
    assert num_tokens(make_entry("video", 3), 5) == 128 * 65 + text
    assert num_tokens(make_entry("image", 1), 5) == 10 * TOKENS_PER_IMAGE + text
    assert num_tokens(make_entry("images", 3, 5), 5) == 3 * TOKENS_PER_IMAGE + text
    assert num_tokens(make_entry("text", 0, 5), 5) == TOKENS_PER_IMAGE + text


def test_further_conversations_add_their_kept_tokens() -> None:
    text = 7 * TOKENS_PER_QUESTION
    weight = KEPT_TOKEN_WEIGHT
    assert num_tokens(make_entry("video", 3600), 2, 4) == 3600 * 65 + text + 3 * weight * 512 * 17
    assert num_tokens(make_entry("video", 1200), 4, 4) == 1200 * 65 + text + weight * 300 * 17
    image = 10 * TOKENS_PER_IMAGE
    assert num_tokens(make_entry("image", 1), 4, 2) == image + text + weight * -(-image // 4)
    text_only = make_entry("text", 0)  # is one conversation
    assert num_tokens(text_only, 2, 4) == TOKENS_PER_IMAGE + text


def test_estimate_of_kept_tokens_follows_the_forgetting_settings() -> None:
    entry = make_entry("video", 400)
    everything = MemAugConfig(spatial_forgetting="none", temporal_forgetting="none")
    some = MemAugConfig(spatial_keep_ratio=0.5, temporal_keep_ratio=0.1, max_kept_frames=30)
    for memaug, expected in ((everything, 400 * 65), (some, 30 * 33), (MemAugConfig(), 100 * 17)):
        assert estimate_kept_tokens(entry, Config(model=ModelConfig(memaug=memaug))) == expected


@pytest.mark.parametrize("num_conversations", [1, 2, 0])
def test_costs_are_those_of_the_located_samples(mixed_shards: Path, num_conversations: int) -> None:
    shards = open_shards(mixed_shards)
    for num_questions in (1, 2, 5):
        config = settings(num_questions, num_conversations)
        for shard, costs in enumerate(sample_costs(shards, config)):
            located = [
                locate_sample(shards, shard, sample, config)
                for sample in range(samples_per_shard(shards, config)[shard])
            ]
            expected = [estimate_num_tokens(*sample, config) for sample in located]
            assert np.array_equal(costs, expected)
