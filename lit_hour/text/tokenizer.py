"""Text <-> token ids: a language model's own tokenizer, or a byte-level one that is learnt here and needs no download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast as Tokenizer

from lit_hour.errors import RunError

BYTE_LEVEL = "byte-level"
START_OF_TURN, END_OF_TURN, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def learn_byte_level_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """A byte-level byte-pair encoding learnt from `texts`: any text can be encoded, frequent words become one token.

    Args:
        texts: what to learn the merges from; the result depends on nothing else.
        vocabulary_size: at most this many tokens, the 256 bytes and the 3 special ones included.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, START_OF_TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer(tokenizer_object=tokenizer, eos_token=END_OF_TURN, pad_token=END_OF_TEXT)


def end_of_turn_id(tokenizer: Tokenizer) -> int:
    """The token that ends an answer; a tokenizer's own `eos_token` may be another one, or none."""
    return int(tokenizer.get_vocab()[END_OF_TURN])


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that was saved in a folder, as `tokenizer.json` has it.

    Not through AutoTokenizer: that one picks a class by a config.json that happens to lie in the same folder, and then
    gives other ids than the file says.

    Raises:
        RunError: the folder holds no tokenizer.json, or the tokenizer lacks the tokens that frame a turn.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise RunError(f"no tokenizer.json in {folder}: it has to be a tokenizer in the Hugging Face layout")
    tokenizer = Tokenizer.from_pretrained(str(folder))
    missing = [token for token in (START_OF_TURN, END_OF_TURN) if token not in tokenizer.get_vocab()]
    if missing:
        raise RunError(f"the tokenizer in {folder} has no {' and no '.join(missing)}: conversations need both")
    return tokenizer
