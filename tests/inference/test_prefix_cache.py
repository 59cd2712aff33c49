"""The KV caches of earlier turns: equal to reading all turns anew, and only new tokens are read."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lit_hour.config.sampling_params import SamplingParams
from lit_hour.inference.answer import Answer
from lit_hour.inference.batching import stream_answers
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.model.memory_repository import with_tokens
from lit_hour.model.prefix_cache import AugmentationCache, PrefixCache
from lit_hour.model.sequence_cache import SequenceCache
from lit_hour.types import Message

QUESTIONS = ("What is shown?", "Which color is it?", "And what happens then?")
LOGPROBS = SamplingParams(num_top_logprobs=1)


def configure(predictor: VideoPredictor, scope: Any, prefix_cache_gb: float) -> VideoPredictor:
    """Return a predictor with the same model and an empty cache."""
    config = predictor.config
    config = replace(
        config,
        text=replace(config.text, memaug_question_scope=scope),
        serving=replace(config.serving, prefix_cache_gb=prefix_cache_gb),
    )
    processor = replace(predictor.processor, config=config.text)
    return VideoPredictor(config, predictor.model, processor)


def converse(predictor: VideoPredictor, memory: VideoMemory) -> list[Answer]:
    """Ask one question after the other, with the answers before it."""
    turns: list[Message] = []
    answers = []
    for question in QUESTIONS:
        turns.append(Message("user", question))
        conversation = predictor.processor.build_chat_prompt(turns)
        *_, answer = stream_answers(predictor, memory, conversation, LOGPROBS)
        assert isinstance(answer, Answer)
        answers.append(answer)
        turns.append(Message("assistant", answer.text))
    return answers


def record_lengths(predictor: VideoPredictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many tokens the language model reads in each step."""
    lengths = []
    forward = type(predictor.model.llm.network).forward

    def record(self: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["inputs_embeds"].shape[1])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(predictor.model.llm.network), "forward", record)
    return lengths


def test_a_further_turn_equals_reading_all_turns_anew(
    predictor: VideoPredictor, memory: VideoMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew = configure(predictor, "first", 0.0)
    expected = converse(anew, memory)
    assert anew.prefixes.num_bytes == anew.prefixes.num_reused == 0
    cached = configure(predictor, "first", 1.0)
    lengths = record_lengths(cached, monkeypatch)
    found = converse(cached, memory)
    for one, other in zip(found, expected, strict=True):
        assert one.text == other.text and one.num_prompt_tokens == other.num_prompt_tokens
        for token, same in zip(one.logprobs, other.logprobs, strict=True):
            assert token.logprob == pytest.approx(same.logprob, abs=1e-5)
    prompts = [length for length in lengths if length > 1]
    totals = [one.num_prompt_tokens for one in found]
    assert prompts == [totals[0], totals[1] - totals[0], totals[2] - totals[1]]
    assert cached.prefixes.num_reused == totals[0] + totals[1]
    assert cached.augmentations.num_reused == 2 and anew.augmentations.num_reused == 0


def test_visual_tokens_that_depend_on_all_questions_are_read_anew(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    cached = configure(predictor, "all", 1.0)
    expected = converse(configure(predictor, "all", 0.0), memory)
    assert [one.text for one in converse(cached, memory)] == [one.text for one in expected]
    assert cached.prefixes.num_bytes == 0
    text_only = cached.encode_visual(None, 0.0, "")
    converse(cached, text_only)
    assert cached.prefixes.num_reused > 0


def test_another_video_or_question_shares_only_what_is_equal(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    cached = configure(predictor, "first", 1.0)
    anew = configure(predictor, "first", 0.0)
    flipped = with_tokens(memory.repository, memory.repository.tokens.flip(0))
    other = replace(memory, repository=predictor.model.with_kv_cache(flipped))
    for one in (memory, other, memory):
        found, expected = converse(cached, one), converse(anew, one)
        assert [answer.text for answer in found] == [answer.text for answer in expected]


def test_several_answers_share_a_prefix(predictor: VideoPredictor, memory: VideoMemory) -> None:
    cached, anew = configure(predictor, "first", 1.0), configure(predictor, "first", 0.0)
    params = SamplingParams(temperature=1.0, seed=0, num_choices=3)
    turns = [Message("user", QUESTIONS[0]), Message("assistant", "x"), Message("user", "Why?")]
    for messages in (turns[:1], turns):
        conversation = cached.processor.build_chat_prompt(messages)
        texts = [
            [
                event.text
                for event in stream_answers(one, memory, conversation, params)
                if isinstance(event, Answer)
            ]
            for one in (cached, anew)
        ]
        assert texts[0] == texts[1] and len(texts[0]) == 3
    assert cached.prefixes.num_reused > 0


def test_augmentations_belong_to_one_repository_and_query(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    cached = configure(predictor, "first", 1.0)
    same = replace(memory, repository=replace(memory.repository))
    first, second = (cached.processor.build_prompt(question) for question in QUESTIONS[:2])
    with torch.inference_mode():
        for one, num_reused in ((memory, 0), (memory, 1), (same, 1), (memory, 2)):
            cached.build_prompts(one, [first])
            assert cached.augmentations.num_reused == num_reused
        num_bytes = cached.augmentations.num_bytes // 2
        del same, one
        cached.build_prompts(memory, [second])
    assert num_bytes < cached.augmentations.num_bytes < 2.5 * num_bytes  # not of the deleted one
    small = AugmentationCache(predictor.model.memaug, num_bytes - 1)
    with torch.inference_mode():
        expected = predictor.build_prompts(memory, [first]).embeddings
        cached.augmentations = small
        assert torch.equal(cached.build_prompts(memory, [first]).embeddings, expected)
    assert small.num_bytes == 0


def test_the_least_recently_used_prompt_is_dropped() -> None:
    def prompt(*values: float) -> torch.Tensor:
        return torch.tensor(values)[:, None].repeat(1, 4)  # (tokens, dim)

    def add(cache: PrefixCache, *values: float) -> None:
        states = torch.zeros(1, 1, len(values), 2)  # (1, heads, tokens, head_dim)
        cache.add(prompt(*values), SequenceCache([(states, states)]))

    num_bytes = 3 * (4 + 2 + 2) * 4  # of a prompt of three tokens
    cache = PrefixCache(2 * num_bytes)
    add(cache, 1.0, 2.0, 3.0)
    add(cache, 4.0, 5.0, 6.0)
    found = cache.find(prompt(1.0, 2.0, 9.0))
    assert found is not None and found.num_tokens == 2
    add(cache, 7.0, 8.0, 9.0)
    assert cache.find(prompt(4.0, 0.0)) is None and cache.num_bytes == 2 * num_bytes
    found = cache.find(prompt(1.0, 2.0, 3.0))
    assert found is not None and found.num_tokens == 2  # the last token is read again
    add(cache, 7.0, 8.0, 9.0)  # in place of the same one
    assert cache.find(prompt(1.0, 0.0)) is not None
    add(cache, *[0.0] * 7)  # larger than the budget
    assert cache.num_bytes == 2 * num_bytes
    assert cache.find(prompt(5.0)) is None
