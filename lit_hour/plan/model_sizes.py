"""Sizes of the language model and of its tokenizer, from pretrained weights if they are here."""

from __future__ import annotations

from pathlib import Path

from lit_hour.config.schema import Config
from lit_hour.io.packaged_weights import SMOLLM2
from lit_hour.text.tokenizer import BYTE_LEVEL, load_tokenizer
from lit_hour.weights.pretrained import (
    SHIPPED_LANGUAGE_MODELS,
    config_for_new_run,
    pretrained_tokenizer,
)

# Rows of the embedding of Qwen2-7B, where the tokenizer is not known; Qwen2.5-3B has 151,936.
UNKNOWN_VOCAB_SIZE = 152_064


def missing_sources(config: Config) -> list[str]:
    """Return the pretrained models and tokenizers that the settings name and that are not here."""
    tokenizer = "" if config.text.tokenizer == BYTE_LEVEL else config.text.tokenizer
    names = (config.training.init_from, config.model.llm.path, tokenizer)
    packaged = (*SHIPPED_LANGUAGE_MODELS, SMOLLM2)
    return [name for name in names if name and name not in packaged and not Path(name).exists()]


def with_known_sizes(config: Config) -> Config:
    """Return the settings with the language model's sizes; without its weights, as they are.

    Raises:
        WeightsError, RunError, ConfigError: The weights are corrupt or unsupported.
    """
    return config if missing_sources(config) else config_for_new_run(config)


def num_tokens(config: Config) -> int:
    """Return the size of the tokenizer; without its file `model.llm.vocab_size`, or as in Qwen2.

    Raises:
        WeightsError, RunError: The tokenizer is corrupt.
    """
    if missing_sources(config):
        return config.model.llm.vocab_size or UNKNOWN_VOCAB_SIZE
    tokenizer = pretrained_tokenizer(config)
    return len(load_tokenizer(tokenizer)) if tokenizer else config.text.vocab_size
