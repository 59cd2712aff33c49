"""Text <-> token ids: a language model's own tokenizer, or a byte-level one that is learnt here and needs no download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast as Tokenizer

from lit_hour.errors import WeightsError

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
    """A byte-level byte-pair encoding learnt from `texts`: any text can be encoded, frequent words become one token.

    Args:
        texts: what to learn the merges from; the result depends on nothing else.
        vocabulary_size: at most this many tokens, the 256 bytes and the 3 special ones included.
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
    """Write a tokenizer that was learnt here, under the name of a class that every transformers knows."""
    tokenizer.save_pretrained(str(folder))
    file = folder / CONFIG_FILE
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(
        json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n",
        encoding="utf-8",
    )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files as they are, and those alone: a config.json beside them changes how some libraries read them."""
    target.mkdir(exist_ok=True)
    for name in ALL_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def end_of_turn_id(tokenizer: Tokenizer) -> int:
    """The token that ends an answer; a tokenizer's own `eos_token` may be another one, or none."""
    return int(tokenizer.get_vocab()[END_OF_TURN])


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that was saved in a folder, as `tokenizer.json` has it.

    Not through AutoTokenizer: that one picks a class by a config.json that happens to lie in the same folder, and then
    gives other ids than the file says.

    Raises:
        WeightsError: the folder holds no tokenizer.json or a damaged one, or the tokenizer lacks the tokens that frame a turn.
    """
    if not (Path(folder) / TOKENIZER_FILE).is_file():
        raise WeightsError(
            f"no {TOKENIZER_FILE} in {folder}: it has to be a tokenizer in the Hugging Face layout"
        )
    _check_file(Path(folder) / TOKENIZER_FILE, ("model", "added_tokens"))
    if (Path(folder) / CONFIG_FILE).is_file():
        _check_file(Path(folder) / CONFIG_FILE, ())
    tokenizer = Tokenizer.from_pretrained(str(folder))
    missing = [
        token for token in (START_OF_TURN, END_OF_TURN) if token not in tokenizer.get_vocab()
    ]
    if missing:
        raise WeightsError(
            f"the tokenizer in {folder} has no {' and no '.join(missing)}: conversations need both"
        )
    return tokenizer


def _check_file(file: Path, keys: Sequence[str]) -> None:
    """Refuse what the library would answer with an error of its own insides."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is damaged: {error}") from error
    missing = (
        [key for key in keys if key not in content] if isinstance(content, dict) else list(keys)
    )
    if missing or not isinstance(content, dict):
        raise WeightsError(
            f"{file} is no tokenizer: it has to be a mapping{''.join(f' with {key!r}' for key in missing)}"
        )
