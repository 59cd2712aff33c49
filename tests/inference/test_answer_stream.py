"""Answers token by token: stop texts, several answers, log-probabilities, JSON."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import pytest
import torch

from lit_hour.config.sampling_params import GREEDY, SamplingParams
from lit_hour.errors import QuestionError
from lit_hour.inference import json_constraint
from lit_hour.inference.answer import Answer, AnswerPiece
from lit_hour.inference.answer_stream import MAX_PENDING_TOKENS, AnswerStream, TextStream
from lit_hour.inference.batching import stream_answers
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.types import Message

QUESTION = "What is shown?"


def answer(
    predictor: VideoPredictor, memory: VideoMemory, params: SamplingParams = GREEDY
) -> tuple[list[AnswerPiece], list[Answer]]:
    conversation = predictor.processor.build_prompt(QUESTION)
    events = list(stream_answers(predictor, memory, conversation, params))
    answers = [event for event in events if isinstance(event, Answer)]
    assert events[-1] == answers[-1]
    pieces = [event for event in events if isinstance(event, AnswerPiece)]
    for one in answers:
        assert "".join(piece.text for piece in pieces if piece.index == one.index) == one.text
    return pieces, sorted(answers, key=lambda one: one.index)


def test_several_greedy_answers_equal_one(predictor: VideoPredictor, memory: VideoMemory) -> None:
    _, (alone,) = answer(predictor, memory)
    _, answers = answer(predictor, memory, SamplingParams(num_choices=3))
    assert [one.text for one in answers] == [alone.text] * 3
    assert [one.index for one in answers] == [0, 1, 2]
    assert {one.num_new_tokens for one in answers} == {alone.num_new_tokens}


def test_sampled_answers_repeat_with_their_seed(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    params = SamplingParams(temperature=1.5, seed=3, num_choices=3)
    first, second = (answer(predictor, memory, params)[1] for _ in range(2))
    texts = [one.text for one in first]
    assert texts == [one.text for one in second] and len(set(texts)) == 3
    (alone,) = answer(predictor, memory, replace(params, num_choices=1))[1]
    assert alone.text == texts[0]
    (greedy,) = answer(predictor, memory)[1]
    (top_1,) = answer(predictor, memory, replace(params, num_choices=1, top_k=1))[1]
    assert top_1.text == greedy.text != texts[0]


def test_a_stop_text_ends_the_answer_before_it(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    (full,) = answer(predictor, memory)[1]
    assert full.finish_reason == "length"
    for start, length in ((0, 1), (1, 3), (3, 4)):
        stop = full.text[start : start + length]
        expected = full.text[: full.text.find(stop)]
        _, (stopped,) = answer(predictor, memory, SamplingParams(stop=("@@", stop)))
        assert (stopped.text, stopped.finish_reason) == (expected, "stop")
        assert stopped.num_new_tokens < full.num_new_tokens
    (unstopped,) = answer(predictor, memory, SamplingParams(stop=(full.text[-2:] + "@",)))[1]
    assert (unstopped.text, unstopped.finish_reason) == (full.text, "length")


def test_no_piece_shows_the_beginning_of_a_stop_text(predictor: VideoPredictor) -> None:
    tokenizer = predictor.processor.tokenizer

    def pieces(text: str, stop: Sequence[str]) -> list[str]:
        stream = TextStream(tokenizer, stop)
        ids = tokenizer.encode(text, add_special_tokens=False)
        return [*[stream.add(token) for token in ids if not stream.is_stopped], stream.finish()]

    assert pieces("abXYZcd", ["XYZ"]) == ["a", "b", "", "", "", ""]
    assert pieces("abXYcd", ["XYZ"]) == ["a", "b", "", "", "XYc", "d", ""]
    assert pieces("abXY", ["XYZ"]) == ["a", "b", "", "", "XY"]
    assert pieces("aab", ["ab"]) == ["", "a", "", ""]
    assert "".join(pieces("caf\u00e9 \U0001f600!", ["@"])) == "caf\u00e9 \U0001f600!"


def test_streamed_text_equals_that_of_all_tokens_at_once(predictor: VideoPredictor) -> None:
    tokenizer, chance = predictor.processor.tokenizer, random.Random(0)
    text = "caf\u00e9 \U0001f600\U0001f468\u200d\U0001f469 na\u00efve \u4f60\u597d  x"
    ids = tokenizer.encode(text, add_special_tokens=False)
    for _ in range(200):
        chosen = [chance.choice([*ids, *tokenizer.all_special_ids]) for _ in range(30)]
        if chance.random() < 0.5:
            start = chance.randrange(len(ids))
            chosen = ids[start:] + tokenizer.all_special_ids + ids
        stream = TextStream(tokenizer)
        pieces = [*map(stream.add, chosen), stream.finish()]
        expected = tokenizer.decode(chosen, skip_special_tokens=True)
        if len(chosen) != 30:  # else parts of characters in a row may be more than a character has
            assert "".join(pieces) == stream.text == expected
        assert "".join(pieces).replace("\ufffd", "") == expected.replace("\ufffd", "")


def test_each_token_decodes_a_few_tokens_only(
    predictor: VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, tokenizer = [], predictor.processor.tokenizer
    decode = tokenizer.decode

    def record(ids: Sequence[int], **options: bool) -> str:
        lengths.append(len(ids))
        return str(decode(ids, **options))

    monkeypatch.setattr(tokenizer, "decode", record)
    (character, *_) = tokenizer.encode("a", add_special_tokens=False)
    (invalid, *_) = tokenizer.encode("\u597d", add_special_tokens=False)  # a part of it
    for token in (character, invalid, tokenizer.all_special_ids[0]):
        stream = TextStream(tokenizer, ["stop"])
        for _ in range(500):
            stream.add(token)
    assert max(lengths) <= 2 * MAX_PENDING_TOKENS


def test_logprobs_end_before_the_stop_text(predictor: VideoPredictor, memory: VideoMemory) -> None:
    params = SamplingParams(num_top_logprobs=0)
    (full,) = answer(predictor, memory, params)[1]
    for start, length in ((2, 1), (3, 2), (4, 3)):
        stop = full.text[start : start + length]
        pieces, (stopped,) = answer(predictor, memory, replace(params, stop=(stop,)))
        assert stopped.text == full.text[: full.text.find(stop)]
        assert stopped.logprobs == full.logprobs[: len(stopped.logprobs)]
        assert tuple(token for piece in pieces for token in piece.logprobs) == stopped.logprobs
    tokenizer = predictor.processor.tokenizer
    for text, expected in (("abXYZcd", ["a", "b"]), ("abXYc", ["a", "b", "X", "Y", "c"])):
        stream = AnswerStream(tokenizer, 0, 100, ["XYZ"])
        released: list[list[str]] = []
        for token in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]:
            if stream.finish_reason is None:
                released.append([one.text for one in stream.add(token, (-1.0, [])).logprobs])
        assert [one.text for one in stream.logprobs] == [*chain(*released)] == expected
        assert released[:4] == [["a"], ["b"], [], []]


@torch.inference_mode()
def test_logprobs_equal_the_log_likelihood(predictor: VideoPredictor, memory: VideoMemory) -> None:
    pieces, (one,) = answer(predictor, memory, SamplingParams(num_top_logprobs=3))
    conversation = predictor.processor.build_prompt(QUESTION)
    prompt = predictor.build_prompts(memory, [conversation])
    ids = torch.stack(list(predictor.model.llm.generate(prompt, 12, end_id=-1)))[:, 0]  # (tokens,)
    (expected,), _ = predictor.model.llm.loglikelihood(prompt, [ids])
    assert len(one.logprobs) == one.num_new_tokens == len(ids)
    assert sum(token.logprob for token in one.logprobs) == pytest.approx(float(expected), abs=1e-3)
    assert tuple(token for piece in pieces for token in piece.logprobs) == one.logprobs
    for token in one.logprobs:
        assert token.top[0] == (token.text, pytest.approx(token.logprob))  # greedy
        assert len(token.top) == 3 and token.top[0][1] >= token.top[1][1] >= token.top[2][1]


def test_messages_in_any_order_become_a_prompt(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    processor = predictor.processor
    system = Message("system", "Be brief.")
    user, assistant = Message("user", QUESTION), Message("assistant", "That.")
    default = processor.build_chat_prompt([user])
    (expected,) = answer(predictor, memory)[1]
    *_, usual = stream_answers(predictor, memory, default)
    assert isinstance(usual, Answer) and usual.text == expected.text
    texts = {usual.text}
    for messages in (
        [system, user],
        [assistant, user],
        [user, assistant],
        [user, system],
        [user, assistant, assistant],
    ):
        conversation = processor.build_chat_prompt(messages)
        has_own = messages[0].role == "system"
        assert conversation.messages[0] == (system if has_own else default.messages[0])
        *_, one = stream_answers(predictor, memory, conversation)
        assert isinstance(one, Answer)
        texts.add(one.text)
    assert len(texts) == 6
    for messages in ([], [system], [Message("user", " ")]):
        with pytest.raises(QuestionError, match="question is empty"):
            processor.build_chat_prompt(messages)


def test_json_without_its_package_names_it(
    predictor: VideoPredictor, memory: VideoMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_constraint, "HAS_LLGUIDANCE", False)
    with pytest.raises(QuestionError, match="package llguidance, which is not installed"):
        answer(predictor, memory, SamplingParams(json_schema="{}"))


def test_json_answers_follow_their_schema(predictor: VideoPredictor, memory: VideoMemory) -> None:
    pytest.importorskip("llguidance")
    config = replace(
        predictor.config, generation=replace(predictor.config.generation, max_new_tokens=80)
    )
    patient = VideoPredictor(config, predictor.model, predictor.processor)
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}, "count": {"enum": [1, 22]}},
        "required": ["color", "count"],
        "additionalProperties": False,
    }
    params = SamplingParams(temperature=1.5, seed=0, json_schema=json.dumps(schema), num_choices=4)
    answers = answer(patient, memory, params)[1]
    for one in answers:
        value = json.loads(one.text)
        assert one.finish_reason == "stop" and list(value) == ["color", "count"]
        assert value["color"] in ("red", "blue") and value["count"] in (1, 22)
    assert len({one.text for one in answers}) > 1


def test_schemas_that_cannot_be_used_are_refused_quickly(predictor: VideoPredictor) -> None:
    pytest.importorskip("llguidance")
    tokenizer = predictor.processor.tokenizer
    for schema, reason in (
        ("{", "cannot be used"),
        ("true", "cannot be used"),
        ('{"type": "nothing"}', "Invalid type: nothing"),
        ('{"$ref": "http://127.0.0.1:1/x"}', "does not fetch"),
        ('{"$ref": "file:///etc/passwd"}', "does not fetch"),
        (json.dumps({"enum": [str(number) for number in range(8000)]}), None),
        (json.dumps({"enum": [str(number) for number in range(80_000)]}), "at most 100,000"),
        (json.dumps({"type": "string", "pattern": "((a{100}){100}){100}"}), None),
    ):
        if reason is None:
            json_constraint.compile_schema(tokenizer, schema)
            continue
        with pytest.raises(QuestionError, match=reason):
            json_constraint.compile_schema(tokenizer, schema)
