"""The causal language model: any of transformers' Qwen2 family, from a folder or from sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lit_hour.config.schema import LanguageConfig
from lit_hour.errors import ConfigError
from lit_hour.model.splice import LanguageInputs
from lit_hour.types import IGNORED_LABEL


class LanguageModel(nn.Module):
    """Reads embeddings and says what comes next.

    Attributes:
        dim: width of its embeddings.
        num_heads, num_key_value_heads, rope_theta: MemAug takes its own from here.
    """

    network: Any

    def __init__(self, settings: LanguageConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.network = _build_network(settings, vocabulary_size)
        self.dim: int = self.network.config.hidden_size
        self.num_heads: int = self.network.config.num_attention_heads
        self.num_key_value_heads: int = self.network.config.num_key_value_heads
        self.rope_theta: float = self.network.config.rope_parameters["rope_theta"]

    def embed(self, input_ids: Tensor) -> Tensor:
        """`(..., tokens)` -> `(..., tokens, dim)`; a placeholder, whose id is negative, gets a row that nobody reads."""
        return self.network.get_input_embeddings()(input_ids.clamp(min=0))  # (..., tokens, dim)

    def loss(self, inputs: LanguageInputs) -> Tensor:
        """Mean cross-entropy over the learnt tokens; zero, with a gradient of zero, when there is none.

        Logits are made only where there is a label: all of them would be 20 GB for 32,768 tokens of a 152,000-word vocabulary.
        """
        hidden = self.network.model(
            inputs_embeds=inputs.embeddings, attention_mask=inputs.attention_mask, use_cache=False
        ).last_hidden_state  # (texts, tokens, dim)
        targets = inputs.labels[:, 1:]  # (texts, tokens - 1)
        is_learnt = targets != IGNORED_LABEL  # (texts, tokens - 1)
        logits = self.network.lm_head(hidden[:, :-1][is_learnt]).float()  # (learnt, vocabulary)
        total = F.cross_entropy(logits, targets[is_learnt], reduction="sum")  # ()
        return total / is_learnt.sum().clamp(min=1)

    def logits(self, inputs: LanguageInputs) -> Tensor:
        """`(texts, tokens, vocabulary)`: everywhere, for those who look into the model."""
        return self.network(inputs_embeds=inputs.embeddings, attention_mask=inputs.attention_mask, use_cache=False).logits

    @torch.no_grad()
    def generate(self, inputs: LanguageInputs, max_new_tokens: int, end_id: int) -> Iterator[Tensor]:
        """Continue each sequence, padded on the left, with the likeliest token until all have ended.

        Yields:
            `(texts,)` one token for each text; a text that has ended goes on with `end_id`. Close the iterator to stop early.
        """
        embeddings, mask = inputs.embeddings, inputs.attention_mask  # (texts, tokens, dim), (texts, tokens)
        has_ended = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)  # (texts,)
        cache = None
        for _ in range(max_new_tokens):
            step = self.network(
                inputs_embeds=embeddings, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            tokens = step.logits[:, -1].argmax(dim=-1).masked_fill(has_ended, end_id)  # (texts,)
            yield tokens
            has_ended |= tokens == end_id
            if has_ended.all():
                return
            cache, embeddings = step.past_key_values, self.embed(tokens[:, None])  # (texts, 1, dim)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)  # (texts, tokens + 1)


def _build_network(settings: LanguageConfig, vocabulary_size: int) -> nn.Module:
    if settings.folder:
        if not (Path(settings.folder) / "config.json").is_file():
            raise ConfigError(f"model.language.folder={settings.folder}: no config.json there")
        network = AutoModelForCausalLM.from_pretrained(
            settings.folder, local_files_only=True, dtype=torch.float32
        )  # training.precision decides what is computed in
        if vocabulary_size > network.config.vocab_size:
            raise ConfigError(
                f"model.language.folder={settings.folder} has {network.config.vocab_size} tokens,"
                f" its tokenizer {vocabulary_size}"
            )
        return network
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary_size,
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            num_key_value_heads=settings.num_key_value_heads,
            intermediate_size=settings.intermediate_size,
            rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
            initializer_range=settings.initial_deviation,
            tie_word_embeddings=settings.tie_embeddings,
        )
    )
