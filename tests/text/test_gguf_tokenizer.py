"""SmolLM2's tokenizer from its GGUF file gives the ids of transformers' own reader of GGUF."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lit_hour.config.schema import TextConfig
from lit_hour.io.packaged_weights import SMOLLM2, find_packaged_weights
from lit_hour.text.chat_template import tokenize_conversation
from lit_hour.text.tokenizer import (
    Tokenizer,
    copy_tokenizer,
    end_of_turn_id,
    hash_tokenizer,
    load_tokenizer,
)
from lit_hour.types import Conversation, Message
from tests.helpers.small_parts import needs_small

pytestmark = needs_small
TEXTS = (
    "What is the capital of France?",
    "A. keyboard\nB. water bottle\nC. bell pepper\nD. screw-driver",
    "  leading and trailing  \n\n\ttabs\tand\r\nnewlines ",
    "It's a dog's life; they'll say we'd've known, won't they?",
    "02:13 is 133.5 s, that is 1,234,567.89 or 3/4 of 10%.",
    "ein Bär, naïve café, Ærøskøbing, Zürich",
    "日本語のテキスト、中文，한국어 и русский, العربية",
    "emoji 🎬🧪👩‍🔬 and \u200b zero width, \ufffd, \x00 and \x7f",
    "def f(x):\n    return {k: v**2 for k, v in x.items()}  # comment",
    "<|im_start|>user\nhello<|im_end|>\n<|endoftext|><repo_name><|im_end",
    "a" * 300 + " " * 40 + "!" * 50,
    "",
)


@pytest.fixture(scope="module")
def file() -> Path:
    return find_packaged_weights(SMOLLM2, "text.tokenizer")


@pytest.fixture(scope="module")
def tokenizer(file: Path) -> Tokenizer:
    return load_tokenizer(file)


@pytest.fixture(scope="module")
def expected(file: Path) -> Any:
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_those_of_transformers(tokenizer: Tokenizer, expected: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == expected.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


@pytest.mark.slow
def test_chat_template_and_special_tokens_equal_those_of_transformers(
    tokenizer: Tokenizer, expected: Any
) -> None:
    messages = [
        {"role": "system", "content": "Look."},
        {"role": "user", "content": "Which animal is shown?"},
        {"role": "assistant", "content": "A zebra."},
        {"role": "user", "content": "When?"},
    ]
    for prompt in (messages, messages[1:]):
        render = {"tokenize": False, "add_generation_prompt": True}
        assert tokenizer.apply_chat_template(prompt, **render) == expected.apply_chat_template(
            prompt, **render
        )
    assert len(tokenizer) == len(expected) == 49152
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(tokenizer, name) == getattr(expected, name), name


@pytest.mark.slow
def test_prompts_of_a_run_are_those_of_the_chat_template(tokenizer: Tokenizer) -> None:
    settings = TextConfig(system_prompt="You are helpful.", time_sentence="none")
    messages = (
        Message("system", settings.system_prompt),
        Message("user", "Which animal is shown?"),
        Message("assistant", "A zebra."),
        Message("user", "When, after 12 minutes?"),
    )
    tokenized = tokenize_conversation(
        tokenizer, Conversation(messages), settings, num_placeholders=0, note=""
    )
    template = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.text} for message in messages],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert tokenized.input_ids.tolist() == tokenizer.encode(template, add_special_tokens=False)


@pytest.mark.slow
def test_digits_are_tokens_of_their_own_behind_any_blanks(tokenizer: Tokenizer) -> None:
    """As llama.cpp splits for tokenizer.ggml.pre=smollm; transformers joins blanks and digits."""
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("in   1990"))
    assert tokens == ["in", "ĠĠĠ", "1", "9", "9", "0"]


@pytest.mark.slow
def test_copy_in_a_run_is_the_same_tokenizer(
    tokenizer: Tokenizer, file: Path, tmp_path: Path
) -> None:
    copy_tokenizer(file, tmp_path / "tokenizer")
    copied = load_tokenizer(tmp_path / "tokenizer")
    assert [copied.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert copied.chat_template == tokenizer.chat_template
    assert copied.pad_token_id == tokenizer.pad_token_id == end_of_turn_id(copied) == 2
    assert hash_tokenizer(file) == hash_tokenizer(file) and len(hash_tokenizer(file)) == 64
