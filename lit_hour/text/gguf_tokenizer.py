"""Build the tokenizer that a GGUF file contains, with its chat template.

Entry point: `build_gguf_tokenizer`.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast as Tokenizer

from lit_hour.errors import WeightsError
from lit_hour.io.gguf_file import GgufFile

TOKENS, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
TOKEN_TYPES, TEMPLATE = "tokenizer.ggml.token_type", "tokenizer.chat_template"
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens; the others have parts of words
SPECIAL_TOKENS = {  # argument of the tokenizer: number of the token in the file
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
}


def build_gguf_tokenizer(gguf: GgufFile) -> Tokenizer:
    """Build the byte-level BPE of a GGUF file.

    Raises:
        WeightsError: the file has another kind of tokenizer, or a part of it is missing.
    """
    metadata = gguf.metadata
    _check_kind(gguf)
    tokens, merges = (_read_strings(gguf, key) for key in (TOKENS, MERGES))
    kinds = metadata.get(TOKEN_TYPES)
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise WeightsError(f"{gguf.path}: {TOKEN_TYPES} must have one number for each token.")
    vocab = {token: index for index, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    for merge, pair in zip(merges, pairs, strict=True):
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise WeightsError(f"{gguf.path}: {MERGES} has {merge!r}, which are not tokens.")
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs))  # type: ignore[arg-type]
    backend.pre_tokenizer = _pre_tokenizer(metadata)
    backend.decoder = decoders.ByteLevel()
    added = [
        tokenizers.AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    backend.add_tokens(added)
    special = {
        name: tokens[metadata[key]]
        for name, key in SPECIAL_TOKENS.items()
        if isinstance(metadata.get(key), int) and 0 <= metadata[key] < len(tokens)
    }
    tokenizer = Tokenizer(tokenizer_object=backend, **special)
    if template := metadata.get(TEMPLATE):
        tokenizer.chat_template = template
    return tokenizer


def _pre_tokenizer(metadata: Any) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if metadata["tokenizer.ggml.pre"] == "smollm":  # each digit is a token of its own
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level


def _check_kind(gguf: GgufFile) -> None:
    """Check that the tokenizer is one of those that are built here.

    Raises:
        WeightsError: it is not.
    """
    kind = tuple(gguf.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind not in (("gpt2", "smollm"), ("gpt2", "gpt-2")):
        raise WeightsError(
            f"{gguf.path}: tokenizer.ggml.model={kind[0]!r} with tokenizer.ggml.pre={kind[1]!r} is"
            " unsupported. Supported: 'gpt2' with 'smollm' or 'gpt-2'. Set text.tokenizer to a"
            " folder with tokenizer.json."
        )


def _read_strings(gguf: GgufFile, key: str) -> list[str]:
    values = gguf.metadata.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise WeightsError(f"{gguf.path}: {key} must be a list of strings.")
    return values
