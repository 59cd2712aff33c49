"""The causal language model: transformers' Qwen2 by its sizes, with low-rank adapters where they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Config, Qwen2ForCausalLM

from lit_hour.config.model import LLMConfig
from lit_hour.errors import ConfigError
from lit_hour.model.multimodal_inputs import LLMInputs
from lit_hour.types import IGNORE_INDEX

LORA_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)  # layers that LoRA adapts


class LanguageModel(nn.Module):
    """Reads embeddings and says what comes next.

    Attributes:
        dim: width of its embeddings.
        num_rows: of the embedding.
        num_heads, num_key_value_heads, rope_theta: MemAug takes its own from here.
    """

    network: Any

    def __init__(self, settings: LLMConfig, vocabulary_size: int) -> None:
        super().__init__()
        if 0 < settings.vocab_size < vocabulary_size:
            raise ConfigError(
                f"model.llm.vocab_size={settings.vocab_size}, but the tokenizer has {vocabulary_size} tokens:"
                " it belongs to another model"
            )
        self.has_adapters = settings.lora.rank > 0
        self.network = _build_network(settings, settings.vocab_size or vocabulary_size)
        self.dim: int = self.network.config.hidden_size
        self.vocab_size: int = self.network.config.vocab_size
        self.num_heads: int = self.network.config.num_attention_heads
        self.num_key_value_heads: int = self.network.config.num_key_value_heads
        self.rope_theta: float = self.network.config.rope_parameters["rope_theta"]

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order."""
        return list(self.network.model.layers)

    def reset_nonpersistent_buffers(self) -> None:
        """Make again what no weights bring: the rotary frequencies, in float32, and the output layer where it is shared."""
        rotary = self.network.model.rotary_emb
        device = self.network.get_input_embeddings().weight.device
        for name, frequencies in type(rotary)(self.network.config).named_buffers():
            setattr(rotary, name, frequencies.to(device))  # (head_dim / 2,)
        if self.network.config.tie_word_embeddings:
            self.network.tie_weights()

    @torch.no_grad()
    def init_weights(self, layer: nn.Module, name: str) -> None:
        """Random weights for one layer of the network, as the network itself gives them; `name` is the layer's."""
        if ".lora_" not in name:
            self.network._init_weights(layer)
        elif ".lora_B" in name:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        else:
            layer.reset_parameters()  # type: ignore[operator]

    def trainable_parameters(self) -> list[nn.Parameter]:
        """All parameters, or where there are adapters those alone."""
        return [
            each
            for name, each in self.network.named_parameters()
            if not self.has_adapters or "lora_" in name
        ]

    def embed(self, input_ids: Tensor) -> Tensor:
        """`(..., tokens)` -> `(..., tokens, dim)`; a placeholder, whose id is negative, gets a row that nobody reads."""
        return self.network.get_input_embeddings()(input_ids.clamp(min=0))  # (..., tokens, dim)

    def loss(self, inputs: LLMInputs) -> Tensor:
        """Mean cross-entropy over the learnt tokens; zero, with a gradient of zero, when there is none.

        Padding has to be on the right, where causal attention sees none of it from a token that is real. So no mask is needed,
        and torch's kernels leave out what is masked instead of computing it. Logits are made only where there is a label: all
        of them would be 20 GB for 32,768 tokens of a 152,000-word vocabulary.
        """
        hidden = self.network.model(
            inputs_embeds=inputs.embeddings, use_cache=False
        ).last_hidden_state  # (texts, tokens, dim)
        targets = inputs.labels[:, 1:]  # (texts, tokens - 1)
        is_learnt = targets != IGNORE_INDEX  # (texts, tokens - 1)
        logits = self.network.lm_head(hidden[:, :-1][is_learnt]).float()  # (learnt, vocabulary)
        total = F.cross_entropy(logits, targets[is_learnt], reduction="sum")  # ()
        return total / is_learnt.sum().clamp(min=1)

    @torch.no_grad()
    def loglikelihood(
        self, inputs: LLMInputs, continuations: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """How likely each of several continuations of one prompt is, which is read once.

        Args:
            inputs: of one text.
            continuations: `(tokens,)` each, one token or more.

        Returns:
            The sum of its tokens' log-probabilities `(continuations,)` in float32, and whether each of its tokens is the
            likeliest `(continuations,)` bool.
        """
        num = len(continuations)
        ids = pad_sequence(
            list(continuations), batch_first=True, padding_value=IGNORE_INDEX
        )  # (continuations, tokens)
        read = self.network(
            inputs_embeds=inputs.embeddings,
            attention_mask=inputs.attention_mask,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = read.logits.expand(num, -1, -1)  # (continuations, 1, vocabulary)
        if ids.shape[1] > 1:
            read.past_key_values.batch_repeat_interleave(num)
            mask = torch.cat(
                [inputs.attention_mask.expand(num, -1), ids[:, :-1] != IGNORE_INDEX], dim=1
            )
            rest = self.network(
                inputs_embeds=self.embed(ids[:, :-1]),
                attention_mask=mask,
                past_key_values=read.past_key_values,
            )
            logits = torch.cat([logits, rest.logits], dim=1)  # (continuations, tokens, vocabulary)
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), ids, ignore_index=IGNORE_INDEX, reduction="none"
        )
        is_likeliest = (logits.argmax(dim=-1) == ids) | (
            ids == IGNORE_INDEX
        )  # (continuations, tokens)
        return -losses.sum(dim=1), is_likeliest.all(dim=1)  # (continuations,), (continuations,)

    def log_probability(self, inputs: LLMInputs, continuation: Tensor) -> Tensor:
        """That of one continuation `(tokens,)` of one text, with its gradient: `()`."""
        embeddings = torch.cat(
            [inputs.embeddings, self.embed(continuation)[None]], dim=1
        )  # (1, tokens, dim)
        mask = torch.ones(
            embeddings.shape[:2], dtype=torch.bool, device=embeddings.device
        )  # (1, tokens)
        read = self.network(
            inputs_embeds=embeddings,
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=len(continuation) + 1,
        )
        return -F.cross_entropy(read.logits[0, :-1].float(), continuation, reduction="sum")

    def logits(self, inputs: LLMInputs) -> Tensor:
        """`(texts, tokens, vocabulary)`: everywhere, for those who look into the model."""
        return self.network(
            inputs_embeds=inputs.embeddings, attention_mask=inputs.attention_mask, use_cache=False
        ).logits

    @torch.no_grad()
    def generate(
        self,
        inputs: LLMInputs,
        max_new_tokens: int,
        end_id: int,
        any_rank: Callable[[bool], bool] = bool,
    ) -> Iterator[Tensor]:
        """Continue each sequence, padded on the left, with the likeliest token until all have ended.

        Args:
            any_rank: whether something is true on any rank. The ranks of a sharded model go on until all of them have ended,
                since each needs the others for each token; a model that is not sharded asks nobody.

        Yields:
            `(texts,)` one token for each text; a text that has ended goes on with `end_id`. Close the iterator to stop early.
        """
        embeddings, mask = (
            inputs.embeddings,
            inputs.attention_mask,
        )  # (texts, tokens, dim), (texts, tokens)
        has_ended = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)  # (texts,)
        cache = None
        for _ in range(max_new_tokens):
            step = self.network(
                inputs_embeds=embeddings,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            tokens = step.logits[:, -1].argmax(dim=-1).masked_fill(has_ended, end_id)  # (texts,)
            yield tokens
            has_ended |= tokens == end_id
            if not any_rank(not has_ended.all()):
                return
            cache, embeddings = step.past_key_values, self.embed(tokens[:, None])  # (texts, 1, dim)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)  # (texts, tokens + 1)


def _build_network(settings: LLMConfig, num_rows: int) -> nn.Module:
    network = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=num_rows,
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            num_key_value_heads=settings.num_key_value_heads,
            intermediate_size=settings.intermediate_size,
            rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
            rms_norm_eps=settings.rms_norm_eps,
            initializer_range=settings.initializer_range,
            tie_word_embeddings=settings.tie_word_embeddings,
        )
    )
    if settings.lora.rank:
        adapters = peft.LoraConfig(
            r=settings.lora.rank,
            lora_alpha=settings.lora.alpha,  # type: ignore[arg-type]  # a float is as good
            lora_dropout=settings.lora.dropout,
            target_modules=list(LORA_TARGETS),
        )
        peft.inject_adapter_in_model(adapters, network)
    return network
