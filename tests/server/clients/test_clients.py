"""The clients openai, litellm and langchain against the server: what their users write works.

litellm and langchain are not in lit_hour's environment: `make test-clients`.
"""

from __future__ import annotations

import base64
import json
import os
from importlib.util import find_spec
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.server.helpers import MODEL, RunningServer
from tests.server.test_media import encode, make_image, part

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else litellm reads a list from the network
QUESTION = "What is there?"
SYSTEM = {"role": "system", "content": "Answer in one word."}
IMAGE = f"data:image/png;base64,{base64.b64encode(make_image('red')).decode()}"
SCHEMA = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}
SHORT_SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1]}},
    "required": ["a"],
    "additionalProperties": False,
}
HAS_LLGUIDANCE = find_spec("llguidance") is not None
pytestmark = pytest.mark.slow


class Color(BaseModel):
    """A pydantic model, as clients give it for structured output."""

    model_config = {"extra": "forbid"}

    color: str


def user(*parts: dict[str, Any] | str) -> dict[str, Any]:
    content = [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]
    return {"role": "user", "content": content}


def picture() -> dict[str, Any]:
    return part(IMAGE, "image_url")


@pytest.fixture
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0)


def test_openai_answers_about_videos_and_pictures(client: openai.OpenAI, clip: bytes) -> None:
    assert client.models.retrieve(MODEL).id == MODEL == next(iter(client.models.list())).id
    create: Any = client.chat.completions.create
    video = user(part(encode(clip)), QUESTION)
    first = create(model=MODEL, messages=[SYSTEM, video]).choices[0]
    answer = {"role": "assistant", **first.message.model_dump(exclude={"role"})}
    follow_up = [SYSTEM, video, answer, {"role": "user", "content": "And?"}]
    assert create(model=MODEL, messages=follow_up).choices[0].finish_reason in ("stop", "length")
    assert create(model=MODEL, messages=[video]).choices[0].message.content
    assert create(model=MODEL, messages=[user(picture(), QUESTION, picture())]).usage.total_tokens
    assert create(model=MODEL, messages=[{"role": "user", "content": "Hello"}]).choices


def test_openai_samples_stops_and_reports(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    given = {"model": MODEL, "messages": [user(picture(), QUESTION)]}
    greedy = create(**given).choices[0].message.content
    sampled = [
        create(**given, temperature=1.2, top_p=0.95, seed=seed, n=2).choices for seed in (7, 7, 8)
    ]
    texts = [[choice.message.content for choice in choices] for choices in sampled]
    assert texts[0] == texts[1] != texts[2] and len(texts[0]) == 2
    stopped = create(**given, stop=[greedy[2:4]], temperature=0, presence_penalty=0).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == greedy[: greedy.find(greedy[2:4])]
    logprobs = create(**given, logprobs=True, top_logprobs=2, max_tokens=3).choices[0].logprobs
    assert len(logprobs.content) == 3 and len(logprobs.content[0].top_logprobs) == 2
    assert logprobs.content[0].logprob <= 0
    chunks = list(create(**given, stream=True, stream_options={"include_usage": True}, n=2, seed=1))
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    with_logprobs = create(**given, stream=True, logprobs=True)
    assert any(chunk.choices[0].logprobs for chunk in with_logprobs)


def test_openai_raises_its_errors(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    given = {"model": MODEL, "messages": [user(QUESTION)]}
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    for fields, field in (
        ({"tools": [{"type": "function", "function": function}]}, "tools"),
        ({"temperature": 3}, "temperature"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"extra_body": {"best_of": 2}}, "best_of"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            create(**given, **fields)
        assert error.value.param == field and field in str(error.value)
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        create(**{**given, "model": "gpt-4"})
    with pytest.raises(openai.NotFoundError, match="The routes are"):
        client.embeddings.create(model=MODEL, input="x")


def test_openai_parses_structured_output(client: openai.OpenAI) -> None:
    pytest.importorskip("llguidance", reason="JSON answers need llguidance, which is missing")
    given: Any = {"model": MODEL, "messages": [user(picture(), QUESTION)]}
    wrapped = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}
    answer = client.chat.completions.create(**given, response_format=wrapped).choices[0]
    assert answer.message.content and answer.message.content.startswith('{"color":"')
    short = {"type": "json_schema", "json_schema": {"name": "s", "schema": SHORT_SCHEMA}}
    answer = client.chat.completions.create(**given, response_format=short).choices[0]
    assert json.loads(str(answer.message.content)) == {"a": 1} and answer.finish_reason == "stop"
    with pytest.raises(openai.LengthFinishReasonError):  # 12 tokens are too few for this one
        client.chat.completions.parse(**given, response_format=Color)


def test_litellm_works(server: RunningServer, clip: bytes) -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is missing: make test-clients")
    given = {
        "model": f"openai/{MODEL}",
        "api_base": f"{server.url}v1",
        "api_key": "none",
        "messages": [SYSTEM, user(part(encode(clip)), QUESTION)],
    }
    first = litellm.completion(**given, temperature=0.0, stop=["@@"], user="u", metadata={"a": "b"})
    assert first.choices[0].message.content and first.usage.completion_tokens > 0
    messages = [*given["messages"], first.choices[0].message, {"role": "user", "content": "And?"}]
    assert litellm.completion(**{**given, "messages": messages}).choices
    images = {**given, "messages": [SYSTEM, user(picture(), QUESTION)]}
    one = litellm.completion(**images, logprobs=True, top_logprobs=2, seed=1, temperature=0.7)
    assert one.choices[0].logprobs
    pieces = [chunk.choices[0].delta.content for chunk in litellm.completion(**given, stream=True)]
    assert "".join(piece or "" for piece in pieces) == first.choices[0].message.content
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**given, temperature=5)
    wrapped = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}
    if HAS_LLGUIDANCE:
        answer = litellm.completion(**images, response_format=wrapped)
        assert answer.choices[0].message.content.startswith('{"color":"')


def test_langchain_works(server: RunningServer, clip: bytes) -> None:
    langchain = pytest.importorskip(
        "langchain_openai", reason="langchain-openai is missing: make test-clients"
    )
    from langchain_core.messages import HumanMessage, SystemMessage

    given = {"model": MODEL, "base_url": f"{server.url}v1", "api_key": "none", "max_retries": 0}
    chat = langchain.ChatOpenAI(**given, temperature=0, stop=["@@"], max_completion_tokens=8)
    video = HumanMessage([part(encode(clip)), {"type": "text", "text": QUESTION}])
    messages = [SystemMessage("Answer in one word."), video]
    answer = chat.invoke(messages)
    assert answer.content and answer.usage_metadata["output_tokens"] == 8
    assert "".join(str(piece.content) for piece in chat.stream(messages)) == answer.content
    assert chat.invoke([*messages, answer, HumanMessage("And?")]).content
    sampled = langchain.ChatOpenAI(**given, temperature=1.0, seed=3, logprobs=True, top_logprobs=2)
    image = HumanMessage([picture(), {"type": "text", "text": QUESTION}])
    first, second = (sampled.invoke([image]) for _ in range(2))
    assert first.content == second.content
    assert first.response_metadata["logprobs"]["content"]
    with pytest.raises(openai.BadRequestError, match="tools"):
        chat.bind_tools([Color]).invoke(messages)
    if HAS_LLGUIDANCE:
        structured = langchain.ChatOpenAI(**given).with_structured_output(
            {"title": "c", "description": "d", **SHORT_SCHEMA}, method="json_schema"
        )
        assert structured.invoke([image]) == {"a": 1}
