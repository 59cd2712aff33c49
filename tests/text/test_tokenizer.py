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

TRAINING_TEXTS = [
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

TRAIN_SCRIPT = """
import sys
from lit_hour.text.tokenizer import train_byte_level_tokenizer
print(train_byte_level_tokenizer(sys.argv[1:], 400).backend_tokenizer.to_str())
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_byte_level_tokenizer(TRAINING_TEXTS, 400)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_any_text_round_trips(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        assert tokenizer.decode(encode(tokenizer, text)) == text


def test_random_characters_round_trip(tokenizer: Tokenizer) -> None:
    chance = random.Random(0)
    characters = [
        chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000
    ]  # without surrogates
    for _ in range(200):
        text = "".join(chance.choices(characters, k=chance.randint(1, 40)))
        assert tokenizer.decode(encode(tokenizer, text)) == text


def test_random_bytes_round_trip(tokenizer: Tokenizer) -> None:
    chance = random.Random(1)
    for _ in range(200):
        text = chance.randbytes(30).decode("utf-8", errors="replace")
        assert tokenizer.decode(encode(tokenizer, text)) == text


def test_frequent_words_become_one_token_and_rare_ones_stay_bytes(tokenizer: Tokenizer) -> None:
    assert len(encode(tokenizer, " circle")) == 1
    assert len(encode(tokenizer, "日本語")) == len("日本語".encode())


def test_bytes_and_special_tokens_have_ids(tokenizer: Tokenizer) -> None:
    smallest = train_byte_level_tokenizer([], 300)
    assert len(smallest) == 256 + 3
    assert len(tokenizer) <= 400
    for special in (START_OF_TURN, END_OF_TURN, END_OF_TEXT):
        assert len(encode(tokenizer, special)) == 1
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END_OF_TURN, END_OF_TEXT)


def test_training_is_deterministic_across_processes(tokenizer: Tokenizer) -> None:
    here = tokenizer.backend_tokenizer.to_str()
    assert train_byte_level_tokenizer(iter(TRAINING_TEXTS), 400).backend_tokenizer.to_str() == here
    repository = REPOSITORY
    there = subprocess.run(
        [sys.executable, "-c", TRAIN_SCRIPT, *TRAINING_TEXTS],
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
    """Also beside the config.json of a model class with a tokenizer of its own."""
    tokenizer.save_pretrained(tmp_path)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    for text in (*TEXTS, *TRAINING_TEXTS, f"{START_OF_TURN}user\nRed?{END_OF_TURN}\n"):
        ids = encode(tokenizer, text)
        assert encode(loaded, text) == ids
        assert loaded.decode(ids) == text
    assert len(loaded) == len(tokenizer)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"no tokenizer.json in {tmp_path}"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_turn_tokens_is_refused(tmp_path: Path) -> None:
    RawTokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(WeightsError, match=r"no <\|im_start\|> and no <\|im_end\|>"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        save_tokenizer(train_byte_level_tokenizer([], 300), tmp_path)
        for content in ("", "{", "[]", '{"model": 3', "\\xff"):
            (tmp_path / file).write_text(content, encoding="utf-8")
            with pytest.raises(WeightsError, match=f"{file} is"):
                load_tokenizer(tmp_path)


def test_a_file_that_is_not_a_tokenizer_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        WeightsError, match=r"tokenizer\.json is not a tokenizer: it lacks model and added_tokens"
    ):
        load_tokenizer(tmp_path)


def test_a_saved_tokenizer_names_the_generic_class(tmp_path: Path) -> None:
    trained = train_byte_level_tokenizer(["red circle"] * 9, 300)
    save_tokenizer(trained, tmp_path)
    assert (
        json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"]
        == "PreTrainedTokenizerFast"
    )
    assert load_tokenizer(tmp_path).encode("a red circle") == trained.encode("a red circle")


def test_copy_tokenizer_copies_its_files_only(tmp_path: Path) -> None:
    save_tokenizer(train_byte_level_tokenizer([], 300), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    copy_tokenizer(tmp_path, tmp_path / "copy")
    copied = {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()}
    assert (
        copied == {name: (tmp_path / name).read_bytes() for name in copied}
        and "config.json" not in copied
    )
    assert {"tokenizer.json", "tokenizer_config.json"} <= copied.keys()
