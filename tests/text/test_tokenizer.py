import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models

from lit_hour.errors import WeightsError
from lit_hour.text.tokenizer import (
    END_OF_TEXT,
    END_OF_TURN,
    START_OF_TURN,
    Tokenizer,
    copy_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_byte_level_tokenizer,
)
from tests import REPOSITORY

LEARNT_FROM = [
    "The red circle moves to the left.",
    "How many shapes are there?",
    "A blue square, then a green one.",
] * 4
TEXTS = (
    "",
    " ",
    "  two  spaces, then a tab\tand a line\nand\r\nanother\n\n",
    "don't , clean . this 's up !",
    "Grüße, naïve café, e\u0301 and é stay apart",
    "日本語の動画 한국어 العربية עברית हिन्दी ไทย",
    "🎬👩‍👩‍👧‍👦🏳️‍🌈 \U0001f1e9\U0001f1ea",
    "\x00\x01\x7f\ufeff\u200d\u2028\ufffd\U0010ffff",
    "C:\\videos\\1.mp4 & <b>\"quoted\"</b> {'a': [1, 2.5e-3]}",
    "▁ Ġ Ċ ## </s> [UNK]",
)

TRAIN_AGAIN = """
import sys
from lit_hour.text.tokenizer import train_byte_level_tokenizer
print(train_byte_level_tokenizer(sys.argv[1:], 400).backend_tokenizer.to_str())
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_byte_level_tokenizer(LEARNT_FROM, 400)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_random_characters_come_back(tokenizer: Tokenizer) -> None:
    chance = random.Random(0)
    characters = [
        chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000
    ]  # a surrogate is no character
    for _ in range(200):
        text = "".join(chance.choices(characters, k=chance.randint(1, 40)))
        assert tokenizer.decode(encode(tokenizer, text)) == text


def test_random_bytes_come_back(tokenizer: Tokenizer) -> None:
    chance = random.Random(1)
    for _ in range(200):
        text = chance.randbytes(30).decode("utf-8", errors="replace")
        assert tokenizer.decode(encode(tokenizer, text)) == text


def test_frequent_words_become_one_token_and_rare_ones_stay_bytes(tokenizer: Tokenizer) -> None:
    assert len(encode(tokenizer, " circle")) == 1
    assert len(encode(tokenizer, "日本語")) == len("日本語".encode())


def test_each_byte_and_each_special_token_has_an_id(tokenizer: Tokenizer) -> None:
    smallest = train_byte_level_tokenizer([], 300)
    assert len(smallest) == 256 + 3
    assert len(tokenizer) <= 400
    for special in (START_OF_TURN, END_OF_TURN, END_OF_TEXT):
        assert len(encode(tokenizer, special)) == 1
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END_OF_TURN, END_OF_TEXT)


def test_the_same_texts_give_the_same_tokenizer_in_any_process(tokenizer: Tokenizer) -> None:
    here = tokenizer.backend_tokenizer.to_str()
    assert train_byte_level_tokenizer(iter(LEARNT_FROM), 400).backend_tokenizer.to_str() == here
    repository = REPOSITORY
    there = subprocess.run(
        [sys.executable, "-c", TRAIN_AGAIN, *LEARNT_FROM],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(there.stdout) == json.loads(here)


@pytest.mark.parametrize(
    "config",
    (None, {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 1000}),
)
def test_a_saved_tokenizer_gives_the_same_ids(
    tmp_path: Path, tokenizer: Tokenizer, config: dict[str, object] | None
) -> None:
    """Also beside the config.json of a model whose class would bring a tokenizer of its own."""
    tokenizer.save_pretrained(tmp_path)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    for text in (*TEXTS, *LEARNT_FROM, f"{START_OF_TURN}user\nRed?{END_OF_TURN}\n"):
        ids = encode(tokenizer, text)
        assert encode(loaded, text) == ids
        assert loaded.decode(ids) == text
    assert len(loaded) == len(tokenizer)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"no tokenizer.json in {tmp_path}"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_turns_is_refused(tmp_path: Path) -> None:
    RawTokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(WeightsError, match=r"no <\|im_start\|> and no <\|im_end\|>"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ("tokenizer.json", "tokenizer_config.json"))
@pytest.mark.parametrize("damage", ("", "{", "[]", '{"model": 3', "\\xff"))
def test_a_damaged_tokenizer_is_named(tmp_path: Path, file: str, damage: str) -> None:
    save_tokenizer(train_byte_level_tokenizer([], 300), tmp_path)
    (tmp_path / file).write_text(damage, encoding="utf-8")
    with pytest.raises(WeightsError, match=f"{file} is"):
        load_tokenizer(tmp_path)


def test_a_file_that_is_no_tokenizer_is_named_by_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        WeightsError, match=r"tokenizer\.json is no tokenizer: .* with 'model' with 'added_tokens'"
    ):
        load_tokenizer(tmp_path)


def test_a_learnt_tokenizer_names_a_class_that_every_transformers_knows(tmp_path: Path) -> None:
    learnt = train_byte_level_tokenizer(["red circle"] * 9, 300)
    save_tokenizer(learnt, tmp_path)
    assert (
        json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"]
        == "PreTrainedTokenizerFast"
    )
    assert load_tokenizer(tmp_path).encode("a red circle") == learnt.encode("a red circle")


def test_a_copied_tokenizer_is_the_files_as_they_were(tmp_path: Path) -> None:
    save_tokenizer(train_byte_level_tokenizer([], 300), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    copy_tokenizer(tmp_path, tmp_path / "copy")
    copied = {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()}
    assert (
        copied == {name: (tmp_path / name).read_bytes() for name in copied}
        and "config.json" not in copied
    )
    assert {"tokenizer.json", "tokenizer_config.json"} <= copied.keys()
