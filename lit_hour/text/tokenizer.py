"""Tokenizers: loaded from a language model, or a byte-level BPE trained here without a download."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast as Tokenizer

from lit_hour.errors import WeightsError
from lit_hour.io.gguf_file import GGUF, read_gguf
from lit_hour.text.gguf_tokenizer import build_gguf_tokenizer

BYTE_LEVEL = "byte-level"
TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
ALL_FILES = (
    TOKENIZER_FILE,
    CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
START_OF_TURN, END_OF_TURN, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def train_byte_level_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer, which can encode any text.

    Args:
        texts: to train on; the result depends on nothing else.
        vocab_size: maximum number of tokens, with the 256 bytes and the 3 special tokens.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, START_OF_TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer(tokenizer_object=tokenizer, eos_token=END_OF_TURN, pad_token=END_OF_TEXT)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Save a trained tokenizer with a class name that all versions of transformers know."""
    tokenizer.save_pretrained(str(folder))
    file = folder / CONFIG_FILE
    config = json.loads(file.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer and no others, or convert the tokenizer of a GGUF file.

    A config.json beside them would change which tokenizer class some libraries choose.
    """
    target.mkdir(exist_ok=True)
    if source.suffix == GGUF:
        save_tokenizer(load_tokenizer(source), target)
        return
    for name in ALL_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def hash_tokenizer(source: Path) -> str:
    """Return the SHA-256 of a tokenizer, which `load_tokenizer` loads."""
    if source.suffix == GGUF:
        content = load_tokenizer(source).backend_tokenizer.to_str().encode()
    else:
        content = (source / TOKENIZER_FILE).read_bytes()
    return hashlib.sha256(content).hexdigest()


def end_of_turn_id(tokenizer: Tokenizer) -> int:
    """Return the id of the token that ends an answer; `eos_token` may be another token or None."""
    return int(tokenizer.get_vocab()[END_OF_TURN])


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer from the `tokenizer.json` of a folder, or from a GGUF file.

    AutoTokenizer is not used: it chooses a class by a config.json in the same folder, which can
    give other ids than `tokenizer.json`.

    Raises:
        WeightsError: the folder has no tokenizer.json, the file is damaged, or the tokenizer lacks
            the tokens that start and end a turn.
    """
    source = Path(source)
    if source.suffix == GGUF:
        tokenizer = build_gguf_tokenizer(read_gguf(source))
    else:
        tokenizer = _load_folder(source)
    vocab = tokenizer.get_vocab()
    missing = [token for token in (START_OF_TURN, END_OF_TURN) if token not in vocab]
    if missing:
        raise WeightsError(
            f"The tokenizer in {source} has no {' and no '.join(missing)}. Conversations need both"
            " tokens."
        )
    return tokenizer


def _load_folder(folder: Path) -> Tokenizer:
    if not (folder / TOKENIZER_FILE).is_file():
        raise WeightsError(
            f"There is no {TOKENIZER_FILE} in {folder}. The folder must have a tokenizer in the"
            " Hugging Face layout."
        )
    _check_json(folder / TOKENIZER_FILE, ("model", "added_tokens"))
    if (folder / CONFIG_FILE).is_file():
        _check_json(folder / CONFIG_FILE, ())
    return Tokenizer.from_pretrained(str(folder))


def _check_json(file: Path, keys: Sequence[str]) -> None:
    """Check that a JSON file is a mapping with some keys, before the library fails on it.

    Raises:
        WeightsError: it is not.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file} is not a tokenizer: it must be a mapping.")
    if missing := [key for key in keys if key not in content]:
        raise WeightsError(f"{file} is not a tokenizer: it lacks {' and '.join(missing)}.")
