"""Token ids, labels and question mask, against those that the published training makes."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as WordTokenizer

from lit_hour.config.schema import TextConfig
from lit_hour.text.chat_template import tokenize_conversation
from lit_hour.text.tokenizer import END_OF_TURN, START_OF_TURN, Tokenizer
from lit_hour.types import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    Conversation,
    Message,
    Role,
    TokenizedText,
)

ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}


@pytest.fixture(scope="module")
def published(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((golden / "labels_qwen.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def word_tokenizer(published: dict[str, Any]) -> Tokenizer:
    """A tokenizer of words and runs of newlines, with the recorded ids."""
    ids = {word: number for word, number, _ in published["rows"] if number >= 0}
    words = WordTokenizer(models.WordLevel(ids | {"<unknown>": 0}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex("\n+"), "isolated")]
    )
    words.add_special_tokens([START_OF_TURN, END_OF_TURN])
    return Tokenizer(tokenizer_object=words)


def published_conversation(published: dict[str, Any]) -> Conversation:
    turns = [
        Message(ROLES[turn["from"]], turn["value"].removeprefix("<image>\n"))
        for turn in published["conversation"]
    ]
    return Conversation((Message("system", published["system"]), *turns))


@pytest.fixture(scope="module")
def published_text(published: dict[str, Any], word_tokenizer: Tokenizer) -> TokenizedText:
    settings = TextConfig(loss_on_template=True)
    return tokenize_conversation(
        word_tokenizer, published_conversation(published), settings, num_placeholders=1, note=""
    )


def test_ids_and_labels_equal_the_published_ones(
    published: dict[str, Any], published_text: TokenizedText
) -> None:
    _, ids, labels = zip(*published["rows"], strict=True)
    assert published_text.input_ids.tolist() == list(ids)
    assert published_text.labels.tolist() == list(labels)


def test_question_mask_equals_the_published_memaug_query(
    published: dict[str, Any], published_text: TokenizedText, word_tokenizer: Tokenizer
) -> None:
    masked = [
        number
        for number in published_text.input_ids[published_text.question_mask].tolist()
        if number != IMAGE_TOKEN_INDEX
    ]
    assert word_tokenizer.convert_ids_to_tokens(masked) == published["memaug_query_words"]


def test_default_labels_are_on_answers_only(
    published: dict[str, Any], word_tokenizer: Tokenizer
) -> None:
    conversation = published_conversation(published)
    text = tokenize_conversation(
        word_tokenizer, conversation, TextConfig(), num_placeholders=1, note=""
    )
    labeled = word_tokenizer.convert_ids_to_tokens(
        text.labels[text.labels != IGNORE_INDEX].tolist()
    )
    assert labeled == ["w6", "w7", "\n", "w8", "<|im_end|>", "w12", "<|im_end|>"]
