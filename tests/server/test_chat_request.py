"""The fields of a chat request: what is read, and what is refused by its name."""

import json
from typing import Any

import pytest

from lit_hour.config.sampling_params import SamplingParams
from lit_hour.server.chat_request import ChatRequest, MediaPart, parse_chat
from lit_hour.server.http_errors import FieldError
from lit_hour.types import Message

TEXT_PART = {"type": "text", "text": "What?"}
VIDEO_PART = {"type": "video_url", "video_url": {"url": "video-1"}}
USER = {"role": "user", "content": [VIDEO_PART, TEXT_PART]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def parse(messages: Any = (USER,), **fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": messages, **fields}).encode(), {})


def rejected(messages: Any = (USER,), **fields: Any) -> tuple[str, str]:
    """Return the name of the field that is refused, and the message."""
    with pytest.raises(FieldError) as error:
        parse(messages, **fields)
    assert error.value.status_code == 400
    return error.value.field, str(error.value.detail)


def test_null_is_as_absent_for_every_optional_field() -> None:
    fields = (
        *("stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "temperature"),
        *("top_p", "top_k", "seed", "stop", "logprobs", "top_logprobs", "frequency_penalty"),
        *("presence_penalty", "response_format", "tools", "tool_choice", "functions", "user"),
        *("logit_bias", "lit_hour", "metadata", "parallel_tool_calls", "modalities", "unknown"),
    )
    assert parse(**dict.fromkeys(fields)) == parse()
    assert parse().params == SamplingParams() and not parse().stream
    assert parse(stop=[], stream_options={"include_obfuscation": False}) == parse()
    assert parse(tools=[], tool_choice="auto", logit_bias={}, user="u", metadata={}) == parse()


def test_messages_come_in_any_order() -> None:
    def read(*messages: tuple[str, Any]) -> list[tuple[str, str]]:
        raw = [{"role": role, "content": content} for role, content in messages]
        return [(message.role, message.text) for message in parse(raw).messages]

    assert read(("system", "S"), ("user", "Q")) == [("system", "S"), ("user", "Q")]
    assert read(("developer", "S"), ("user", "Q"))[0] == ("system", "S")
    assert read(("system", [TEXT_PART]), ("user", "Q"))[0] == ("system", "What?")
    for empty in (None, "", " ", []):
        assert read(("system", empty), ("user", "Q")) == [("user", "Q")]
    assert read(("system", "S"), ("system", "T"), ("user", "Q"))[0] == ("system", "S\nT")
    assert read(("user", "Q"), ("user", "R")) == [("user", "Q\nR")]
    assert read(("user", [VIDEO_PART]), ("user", "R")) == [("user", "R")]
    assert read(("assistant", "Hi"), ("user", "Q"), ("assistant", None)) == [
        ("assistant", "Hi"),
        ("user", "Q"),
        ("assistant", ""),
    ]
    assert read(("user", [TEXT_PART, {"type": "text", "text": "B"}])) == [("user", "What?\nB")]


def test_an_assistant_message_may_be_a_dump_of_a_client() -> None:
    dumped = {
        **{"role": "assistant", "content": "A", "refusal": None, "annotations": [], "audio": None},
        **{"function_call": None, "tool_calls": None, "name": "bot", "reasoning_content": "x"},
    }
    named = {"role": "user", "content": [{**TEXT_PART, "cache_control": {"type": "ephemeral"}}]}
    assert parse([USER, dumped, {**named, "name": "Ann"}]).messages[1].text == "A"


def test_media_are_one_video_or_several_images() -> None:
    again = {"role": "user", "content": [VIDEO_PART, {"type": "text", "text": "Again?"}]}
    (part,) = parse([USER, again]).media
    assert part == MediaPart("video", "video-1", "messages[1].content[0].video_url.url")
    plain = {"type": "image_url", "image_url": "a"}
    media = parse([{"role": "user", "content": [plain, image("a"), TEXT_PART]}]).media
    assert [part.url for part in media] == ["a", "a"] and media[0].kind == "image"
    assert parse([{"role": "user", "content": "What?"}]).media == ()


def test_several_images_are_where_their_parts_are() -> None:
    content = [TEXT_PART, image("a"), {"type": "text", "text": "B"}, image("b")]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "C"},
        {"role": "user", "content": [image("c"), TEXT_PART]},
    ]
    assert parse(messages).messages == (
        Message("user", "What?\n<image>\nB\n<image>"),
        Message("assistant", "C"),
        Message("user", "<image>\nWhat?"),
    )
    placed = [{"type": "text", "text": "<image> or <image>?"}, image("a"), image("b")]
    assert parse([{"role": "user", "content": placed}]).messages[0].text == "<image> or <image>?"
    one = [TEXT_PART, image("a")]
    assert parse([{"role": "user", "content": one}]).messages[0].text == "What?"


def test_sampling_fields_become_parameters() -> None:
    assert parse(
        **{"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": -3, "stop": ["a", "b"], "n": 2},
        **{"logprobs": True, "top_logprobs": 4, "frequency_penalty": 1, "presence_penalty": -2},
        max_tokens=7,
    ).params == SamplingParams(
        **{"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": -3, "stop": ("a", "b")},
        **{"num_choices": 2, "num_top_logprobs": 4, "frequency_penalty": 1.0},
        **{"presence_penalty": -2.0, "max_new_tokens": 7},
    )
    assert parse(stop="x").params.stop == ("x",)
    assert parse(logprobs=True).params.num_top_logprobs == 0
    assert parse(max_tokens=7, max_completion_tokens=3).params.max_new_tokens == 3
    assert parse(top_k=-1).params == SamplingParams()
    for fields in ({"top_p": 0.5}, {"top_k": 3}, {"n": 2}):
        assert parse(**fields).params.temperature == 1.0, fields
    assert parse(temperature=0, n=2).params.temperature == 0.0
    assert parse(seed=1).params.temperature == 0.0


def test_a_response_format_becomes_a_schema() -> None:
    def schema(response_format: Any) -> Any:
        text = parse(response_format=response_format).params.json_schema
        return text and json.loads(text)

    wrapped = {"name": "n", "strict": True, "description": "d", "schema": SCHEMA}
    assert schema({"type": "json_schema", "json_schema": wrapped}) == SCHEMA
    assert schema({"type": "json_object"}) == {"type": "object"}
    assert schema({"type": "text"}) is None


def test_unsupported_and_wrong_fields_are_named() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for field, value, reason in (
        ("tools", [tool], "calls no tools"),
        ("tool_choice", "required", "calls no tools"),
        ("functions", [{"name": "f"}], "calls no tools"),
        ("logit_bias", {"1": 5}, "is not supported"),
        ("reasoning_effort", "low", "is not supported"),
        ("best_of", 2, "is not supported"),
        ("store", True, "is not supported"),
        ("modalities", ["audio"], "this model writes text"),
        ("stream", "yes", 'must be true or false, not "yes"'),
        ("temperature", 2.5, "must be a number at least 0 and at most 2, not 2.5"),
        ("temperature", 10**400, "must be a number"),
        ("temperature", True, "must be a number"),
        ("temperature", "0.5", "must be a number"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", [[]], "not a list of 1"),
        ("n", 17, "at least 1 and at most 16"),
        ("n", 1.0, "must be a whole number"),
        ("seed", 2**63, "must be a whole number"),
        ("max_tokens", 0, "at least 1"),
        ("stop", ["a"] * 17, "up to 16 strings"),
        ("stop", "", "of 1 to 256"),
        ("stop", [1], "up to 16 strings"),
        ("stop", False, "up to 16 strings"),
        ("stream_options.other", {"stream_options": {"other": True}}, "is not supported"),
        ("top_logprobs", 2, "needs logprobs"),
        ("stream_options", [], "must be a JSON object"),
        ("response_format.type", {"response_format": {"type": "xml"}}, "one of text"),
        ("response_format.type", {"response_format": {"x": 1}}, "is required"),
        (
            "response_format.json_schema.schema",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "which is an object",
        ),
        ("lit_hour.evidence", {"lit_hour": {"evidence": True}, "n": 2}, "needs one answer"),
        ("lit_hour.other", {"lit_hour": {"other": 1}}, "is not supported"),
    ):
        fields = value if isinstance(value, dict) and field not in ("logit_bias",) else None
        name, message = rejected(**(fields or {field: value}))
        assert name == field and message.startswith(field) and reason in message, (field, message)


def test_wrong_messages_are_named() -> None:
    other = {"type": "video_url", "video_url": {"url": "video-2"}}
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    cases: tuple[tuple[Any, str, str], ...] = (
        ("x", "messages", "must be a list"),
        ([], "messages", "has 0 items. Give from 1 to 1000"),
        ([USER] * 1001, "messages", "has 1001 items"),
        (["x"], "messages[0]", "must be a JSON object"),
        ([{"content": "x"}], "messages[0].role", "is required"),
        ([USER, {"role": "tool", "content": "x"}], "messages[1].role", "role=tool"),
        ([{"role": "king", "content": "x"}], "messages[0].role", "one of system, developer"),
        ([{"role": "system", "content": "x"}], "messages", "none of the user"),
        ([{"role": "user", "content": 5}], "messages[0].content", "a string or a list of parts"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0]", "a JSON object"),
        ([{"role": "user", "content": [{}]}], "messages[0].content[0].type", "is required"),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
            "messages[0].content[0].type",
            "one of text, refusal, image_url, video_url",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages[0].content[0].image_url.url",
            "is required",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "messages[0].content[0].image_url",
            "an object such as",
        ),
        ([USER, {"role": "assistant", "tool_calls": calls}], "messages[1].tool_calls", "not supp"),
        (
            [{"role": "system", "content": [VIDEO_PART]}, USER],
            "messages[0].content[0].video_url.url",
            "of role system",
        ),
        (
            [{"role": "user", "content": [VIDEO_PART, other]}],
            "messages[0].content[1].video_url.url",
            "about one video, but 2 were given",
        ),
        (
            [{"role": "user", "content": [VIDEO_PART, image("a")]}],
            "messages[0].content[1].image_url.url",
            "not both",
        ),
        (
            [{"role": "user", "content": [image("a")] * 33}],
            "messages[0].content[32].image_url.url",
            "up to 32",
        ),
    )
    other_fields: tuple[tuple[Any, str], ...] = (
        ({"role": "user", "content": "x", "context": "y"}, "messages[0].context"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "weight": 2}]},
            "messages[0].content[0].weight",
        ),
        (
            {"role": "user", "content": [{**VIDEO_PART, "fps": 2}]},
            "messages[0].content[0].fps",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "x": 1}}]},
            "messages[0].content[0].image_url.x",
        ),
    )
    cases += tuple(([one], field, "is not supported") for one, field in other_fields)
    for messages, field, reason in cases:
        name, message = rejected(messages)
        assert name == field and reason in message, (messages, name, message)
        assert "pydantic" not in message and "Input should" not in message


def test_a_body_that_is_not_json_is_refused() -> None:
    bodies = (b"", b"{", b"[" * 100_000, b"\xff", b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}')
    for body in bodies:
        with pytest.raises(FieldError, match=r"body|JSON"):
            parse_chat(body, {})
    pair = b'{"model": "m", "messages": [{"role": "user", "content": "\\ud83d\\ude00"}]}'
    assert parse_chat(pair, {}).messages[0].text == "\U0001f600"
