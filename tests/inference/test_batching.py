"""Continuous batching: answers together equal those alone, whenever they join and leave."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from lit_hour.config.sampling_params import GREEDY, SamplingParams
from lit_hour.errors import QuestionError
from lit_hour.inference import batching
from lit_hour.inference.answer import Answer, AnswerPiece
from lit_hour.inference.batching import BatchedDecoder, Generation, stream_answers
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.model.backbones import BACKBONES
from lit_hour.model.sequence_cache import SequenceCache
from lit_hour.text.tokenizer import end_of_turn_id
from lit_hour.types import Conversation
from tests.inference.helpers import CONFIG, make_predictor, random_frames

NUM_QUESTIONS = 12


@dataclass(frozen=True)
class Request:
    """A question about a memory, with the answers that it gets alone."""

    memory: VideoMemory
    conversation: Conversation
    params: SamplingParams
    expected: Sequence[Answer]


@pytest.fixture(scope="module")
def requests(predictor: VideoPredictor) -> list[Request]:
    """Questions of different lengths about different memories, some of them sampled."""
    chance = random.Random(0)
    memories = [
        predictor.encode_visual(random_frames(num, num), float(num), f"video {num}")
        for num in (4, 6, 5)
    ]
    memories.append(predictor.encode_visual(None, 0.0, "text"))
    found = []
    for number in range(NUM_QUESTIONS):
        memory, question = memories[number % 4], f"What is shown{' now' * chance.randrange(30)}?"
        params = replace(GREEDY, max_new_tokens=chance.randint(1, 12))
        if number % 3 == 2:
            params = replace(params, temperature=1.2, seed=number, num_choices=1 + number % 4)
        if number % 5 == 4:
            params = replace(params, num_top_logprobs=2, stop=("a", "e"))
        conversation = predictor.processor.build_prompt(question)
        events = stream_answers(predictor, memory, conversation, params)
        found.append(Request(memory, conversation, params, only_answers(list(events))))
    return found


def only_answers(events: Sequence[Any]) -> list[Answer]:
    answers = [event for event in events if isinstance(event, Answer)]
    return sorted(answers, key=lambda answer: answer.index)


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("text", "num_new_tokens", "num_prompt_tokens", "finish_reason", "index"):
            assert getattr(one, name) == getattr(other, name), name
        for token, same in zip(one.logprobs, other.logprobs, strict=True):
            assert token.text == same.text
            assert token.logprob == pytest.approx(same.logprob, abs=1e-4)


def greedy_tokens(predictor: VideoPredictor, request: Request) -> list[int]:
    """Generate the plain way: one text, with the padded cache of transformers."""
    limit = request.params.max_new_tokens
    assert limit is not None
    end_id = end_of_turn_id(predictor.processor.tokenizer)
    with torch.inference_mode():
        prompt = predictor.build_prompts(request.memory, [request.conversation])
        return [int(token) for token in predictor.model.llm.generate(prompt, limit, end_id)]


def test_answers_alone_have_the_tokens_of_plain_generation(
    predictor: VideoPredictor, requests: Sequence[Request]
) -> None:
    decode = predictor.processor.tokenizer.decode
    plain = [one for one in requests if one.params.temperature == 0 and not one.params.stop]
    assert len(plain) > 3
    for request in plain:
        tokens = greedy_tokens(predictor, request)
        (answer,) = request.expected
        assert answer.text == decode(tokens, skip_special_tokens=True)
        assert answer.num_new_tokens == len(tokens)


@pytest.mark.parametrize(("seed", "max_prompt_tokens"), ((0, 7), (1, 40), (2, 1024)))
def test_answers_together_equal_answers_alone(
    predictor: VideoPredictor,
    requests: Sequence[Request],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    max_prompt_tokens: int,
) -> None:
    """Requests join and leave at random moments, and prompts are read in parts."""
    monkeypatch.setattr(batching, "MAX_PROMPT_TOKENS_PER_STEP", max_prompt_tokens)
    chance, decoder = random.Random(seed), BatchedDecoder(predictor)
    waiting = chance.sample(list(requests), len(requests))
    running: dict[Generation, Request] = {}
    events: dict[Generation, list[Any]] = {}
    most_together = num_left = 0
    while waiting or running:
        if waiting and chance.random() < 0.8:
            request = waiting.pop()
            generation = decoder.prepare(request.memory, request.conversation, request.params)
            decoder.add(generation)
            running[generation], events[generation] = request, []
        if running and chance.random() < 0.08:
            decoder.remove(gone := chance.choice(list(running)))
            del running[gone]
            num_left += 1
        most_together = max(most_together, len(running))
        for generation, event in decoder.step():
            events[generation].append(event)
            answers = only_answers(events[generation])
            if len(answers) == running[generation].params.num_choices:
                assert_same(answers, running.pop(generation).expected)
    assert most_together > 3 and num_left > 0
    assert not decoder.answers and not decoder.prompts


def test_pieces_of_each_answer_are_its_text(
    predictor: VideoPredictor, requests: Sequence[Request]
) -> None:
    decoder = BatchedDecoder(predictor)
    for request in requests:
        decoder.add(decoder.prepare(request.memory, request.conversation, request.params))
    pieces: dict[tuple[Generation, int], list[AnswerPiece]] = {}
    num_answers = 0
    while decoder.answers or decoder.prompts:
        for generation, event in decoder.step():
            assert not isinstance(event, QuestionError)
            own = pieces.setdefault((generation, event.index), [])
            if isinstance(event, AnswerPiece):
                own.append(event)
                continue
            num_answers += 1
            assert "".join(piece.text for piece in own) == event.text
            assert tuple(one for piece in own for one in piece.logprobs) == event.logprobs
    assert num_answers == sum(request.params.num_choices for request in requests)


def test_a_failed_step_can_be_repeated(
    predictor: VideoPredictor, requests: Sequence[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(0)

    def fail_in_a_layer(self: Any, *args: Any, **kwargs: Any) -> Any:
        if chance.random() < 0.5:
            raise MemoryError
        return project(self, *args, **kwargs)

    decoder, found = BatchedDecoder(predictor), []
    greedy = [request for request in requests if request.params.temperature == 0]
    expected = {}
    for request in greedy:
        generation = decoder.prepare(request.memory, request.conversation, request.params)
        expected[generation] = request.expected
        decoder.add(generation)
    mlp = type(predictor.model.llm.layers[0].mlp)  # type: ignore[union-attr]
    project = mlp.forward
    monkeypatch.setattr(mlp, "forward", fail_in_a_layer)
    num_failed = 0
    while decoder.answers or decoder.prompts:
        try:
            found += decoder.step()
        except MemoryError:
            num_failed += 1
    assert num_failed > 1
    for generation, answers in expected.items():
        assert_same(only_answers([event for one, event in found if one is generation]), answers)


def test_an_error_of_one_answer_ends_its_generation_alone(
    predictor: VideoPredictor, requests: Sequence[Request]
) -> None:
    def refuse(ids: list[int]) -> torch.Tensor:
        if len(ids) == 2:
            raise QuestionError("The schema became too complex.")
        return torch.ones(len(predictor.processor.tokenizer), dtype=torch.bool)

    decoder, events = BatchedDecoder(predictor), []
    request = max(requests, key=lambda one: one.expected[0].num_new_tokens)
    good, bad = (
        decoder.prepare(request.memory, request.conversation, request.params) for _ in range(2)
    )
    for answer in bad.answers:
        answer.sampler._constraint, answer.sampler.takes_most_likely = refuse, False
    for generation in (bad, good):
        decoder.add(generation)
    while decoder.answers or decoder.prompts:
        events += decoder.step()
    own = [event for generation, event in events if generation is bad]
    assert isinstance(own[-1], QuestionError)
    assert not any(isinstance(event, Answer | QuestionError) for event in own[:-1])
    assert_same(only_answers([event for one, event in events if one is good]), request.expected)


@pytest.mark.parametrize("model_type", BACKBONES)
def test_reading_in_parts_equals_reading_at_once(model_type: Any) -> None:
    llm = make_predictor(
        replace(
            CONFIG,
            model=replace(
                CONFIG.model, llm=replace(CONFIG.model.llm, num_layers=3, model_type=model_type)
            ),
        )
    ).model.llm
    texts = [torch.randn(num, llm.dim) for num in (1, 40, 7, 300)]  # (tokens, dim) each
    chance, caches = random.Random(1), [SequenceCache() for _ in texts]
    left, logits = list(texts), dict[int, torch.Tensor]()
    while any(map(len, left)):
        rows = [row for row in range(len(left)) if len(left[row]) and chance.random() < 0.7]
        parts = [left[row][: chance.randint(1, 30)] for row in rows]
        if rows:
            read = llm.read(parts, [caches[row] for row in rows])  # (sequences, vocabulary)
            logits |= dict(zip(rows, read, strict=True))
        for row, part in zip(rows, parts, strict=True):
            left[row] = left[row][len(part) :]
    for row, text in enumerate(texts):
        expected = llm.network(inputs_embeds=text[None], use_cache=False).logits[0, -1]
        torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)
        assert caches[row].num_tokens == len(text)


def test_a_fork_never_changes_its_origin() -> None:
    cache = SequenceCache()
    first = torch.randn(1, 2, 5, 4)  # (1, heads, tokens, head_dim)
    cache.append(0, first, first)
    cache.num_tokens = 5
    layers, fork = cache.layers, cache.fork()
    for one, value in ((cache, 1.0), (fork, 2.0)):
        keys, _ = one.append(0, torch.full((1, 2, 1, 4), value), torch.zeros(1, 2, 1, 4))
        one.num_tokens += 1
        assert torch.equal(keys[:, :, :5], first) and (keys[:, :, 5:] == value).all()
    assert torch.equal(layers[0][0], first)
    assert (cache.layers[0][0][:, :, 5:] == 1.0).all()
