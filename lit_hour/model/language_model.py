"""The causal language model: a decoder of transformers, with LoRA adapters if configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lit_hour.config.model import LLMConfig
from lit_hour.errors import ConfigError
from lit_hour.model.backbones import BACKBONES, build_network
from lit_hour.model.last_decoder_layer import Predicting
from lit_hour.model.layer_calls import input_gradient, record_layer_calls
from lit_hour.model.packed_attention import PACKED_ATTENTION
from lit_hour.model.quantized_linear import quantize_frozen_layers
from lit_hour.model.sequence_cache import SequenceBatch, SequenceCache
from lit_hour.types import IGNORE_INDEX

COSINE_SCALE = 20.0  # of the logits of `answer_words_loss`: its cosines are at most 1
LANGUAGE_MODELS = Path(__file__).parent / "language_models"  # our own, in the Hugging Face layout


@dataclass(frozen=True)
class LLMInputs:
    """Texts with their visual tokens, padded together.

    Attributes:
        embeddings: `(texts, tokens, dim)`.
        labels: `(texts, tokens)` int64, IGNORE_INDEX where nothing is learned.
        attention_mask: `(texts, tokens)` bool, false in the padding.
        num_truncated: number of texts that were too long and lost their end.
    """

    embeddings: Tensor
    labels: Tensor
    attention_mask: Tensor
    num_truncated: int = 0

    @property
    def is_target(self) -> Tensor:
        """Return where the next token is learned: `(texts, tokens - 1)` bool."""
        return self.labels[:, 1:] != IGNORE_INDEX


class LanguageModel(nn.Module):
    """A decoder on embeddings: loss, generation and log-likelihoods.

    Attributes:
        dim: width of the embeddings.
        vocab_size: number of rows of the embedding.
        num_heads, num_key_value_heads, rope_theta: sizes that MemAug shares.
        packs_texts: whether `loss` computes no padding; see `pack_texts`.
    """

    network: Any
    packs_texts = False

    def __init__(self, config: LLMConfig, num_tokens: int) -> None:
        """Build the network with random weights.

        Args:
            config: sizes.
            num_tokens: number of tokens of the tokenizer.

        Raises:
            ConfigError: the tokenizer has more tokens than the embedding has rows.
        """
        super().__init__()
        if 0 < config.vocab_size < num_tokens:
            raise ConfigError(
                f"model.llm.vocab_size={config.vocab_size}, but the tokenizer has {num_tokens} "
                "tokens."
                " It belongs to another model."
            )
        self.has_adapters, self._quantize = config.lora.rank > 0, config.quantize
        self.backbone = BACKBONES[config.model_type]
        self.network = build_network(config, config.vocab_size or num_tokens)
        self.dim: int = self.network.config.hidden_size
        self.vocab_size: int = self.network.config.vocab_size
        self.num_heads: int = self.network.config.num_attention_heads
        self.num_key_value_heads: int = self.network.config.num_key_value_heads
        self.rope_theta: float = self.network.config.rope_parameters["rope_theta"]

    def pack_texts(self) -> None:
        """Let `loss` compute no padding: the texts of a batch lie one after the other.

        Attention is computed for each text. Generation and log-likelihoods stay the same.
        """
        self.packs_texts = True
        self.use_packed_attention()

    def use_packed_attention(self) -> None:
        """Let attention take packed texts, and sequences with caches, beside padded texts."""
        self.network.set_attn_implementation(PACKED_ATTENTION)

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order."""
        return list(self.network.model.layers)

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token in all layers."""
        head_dim: int = self.network.model.layers[0].self_attn.head_dim
        num_values = 2 * len(self.layers) * self.num_key_value_heads * head_dim
        return num_values * self.network.get_input_embeddings().weight.element_size()

    def reset_nonpersistent_buffers(self) -> None:
        """Recreate what a checkpoint lacks: float32 rotary frequencies, the tied output layer."""
        rotary = self.network.model.rotary_emb
        device = self.network.get_input_embeddings().weight.device
        for name, frequencies in type(rotary)(self.network.config).named_buffers():
            setattr(rotary, name, frequencies.to(device))  # (head_dim / 2,)
        if self.network.config.tie_word_embeddings:
            self.network.tie_weights()

    @torch.no_grad()
    def init_weights(self, layer: nn.Module, name: str) -> None:
        """Initialize a layer at random, by its name, as transformers and peft do."""
        if ".lora_" not in name:
            self.network._init_weights(layer)
        elif ".lora_B" in name:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        elif ".lora_magnitude_vector" in name:  # set by `reset_magnitudes`
            nn.init.ones_(layer.weight)  # type: ignore[arg-type]
        else:
            layer.reset_parameters()  # type: ignore[operator]

    def quantize_frozen_layers(self) -> None:
        """Quantize the decoder as `model.llm.quantize` says, when the weights are loaded."""
        if self._quantize != "none":
            quantize_frozen_layers(self.network.model.layers, self._quantize)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return all parameters, or only the adapters' if there are adapters."""
        return [
            parameter
            for name, parameter in self.network.named_parameters()
            if not self.has_adapters or "lora_" in name
        ]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed token ids.

        Args:
            input_ids: `(..., tokens)` int64, at most `vocab_size` - 1. A placeholder has a negative
                id and gets an arbitrary row, which is not used.

        Returns:
            `(..., tokens, dim)`, in the precision of the weights.
        """
        return self.network.get_input_embeddings()(input_ids.clamp(min=0))

    def loss(self, inputs: LLMInputs) -> Tensor:
        """Compute the mean cross-entropy over the labels.

        No mask is needed, because causal attention ignores padding on the right, so fused attention
        kernels can skip the upper triangle. Logits, and the last layer but for its keys and
        values, are computed only where there is a label: all logits of 32,768 tokens and 152,000
        words would take 20 GB.

        Args:
            inputs: texts `(texts, tokens, dim)`, padded on the right.

        Returns:
            `()` float32, in nats per label; zero, with gradients of zero, without any label.
        """
        targets = inputs.labels[:, 1:][inputs.is_target]  # (targets,)
        is_predicting = F.pad(inputs.is_target, (0, 1))  # (texts, tokens)
        predicting = self._encode(inputs, is_predicting)  # (targets, dim)
        logits = self.network.lm_head(predicting).float()  # (targets, vocabulary)
        total = F.cross_entropy(logits, targets, reduction="sum")  # ()
        return total / max(1, len(targets))

    def target_log_probs(self, inputs: LLMInputs, temperature: float = 1.0) -> Tensor:
        """Compute the log-probability of each label, as `loss` averages it.

        Args:
            inputs: texts `(texts, tokens, dim)`, padded on the right.
            temperature: divides the logits.

        Returns:
            `(targets,)` float32, text by text.
        """
        targets = inputs.labels[:, 1:][inputs.is_target]  # (targets,)
        predicting = self._encode(inputs, F.pad(inputs.is_target, (0, 1)))  # (targets, dim)
        logits = self.network.lm_head(predicting).float() / temperature  # (targets, vocabulary)
        return -F.cross_entropy(logits, targets, reduction="none")  # (targets,)

    def answer_words_loss(self, means: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """Compute the cross-entropy of the words of the answers, by cosine similarity.

        A bag-of-words objective: every token of an answer is predicted from the mean visual token
        of its text, among the embeddings of the vocabulary. No decoder layer runs. The token that
        ends the last answer is left out.

        Args:
            means: `(texts, dim)`, the mean visual token of each text.
            labels: `(tokens,)` for each text, IGNORE_INDEX where nothing is learned.

        Returns:
            `()` float32, in nats per token; zero, with gradients of zero, without any label.
        """
        words = [one[one != IGNORE_INDEX][:-1] for one in labels]  # (words,) each
        embedding = self.network.get_input_embeddings().weight  # (vocabulary, dim)
        similarity = F.linear(F.normalize(means, dim=-1), F.normalize(embedding, dim=-1))
        logits = similarity.float() * COSINE_SCALE  # (texts, vocabulary)
        repeats = torch.tensor([len(one) for one in words], device=means.device)  # (texts,)
        logits = logits.repeat_interleave(repeats, dim=0)  # (targets, vocabulary)
        total = F.cross_entropy(logits, torch.cat(words), reduction="sum")  # ()
        return total / max(1, len(logits))

    def _encode(self, inputs: LLMInputs, is_predicting: Tensor) -> Tensor:
        """Return the last hidden states at some tokens: `(texts, tokens)` bool -> `(some, dim)`."""
        if self.packs_texts:
            return self._encode_packed(inputs, is_predicting)
        return self.network.model(
            inputs_embeds=inputs.embeddings,
            predicting=Predicting.of_padded(is_predicting),
            use_cache=False,
        ).last_hidden_state

    def _encode_packed(self, inputs: LLMInputs, is_predicting: Tensor) -> Tensor:
        """Compute `_encode` for all texts without their padding."""
        mask = inputs.attention_mask  # (texts, padded tokens)
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)[mask]
        ends = mask.sum(dim=1).cumsum(dim=0)  # (texts,)
        return self.network.model(
            inputs_embeds=inputs.embeddings[mask][None],  # (1, tokens, dim)
            position_ids=positions[None],  # (1, tokens)
            attention_mask=self.backbone.packed_mask(mask.device),  # texts are told apart below
            cu_seq_lens_q=F.pad(ends, (1, 0)).int(),  # (texts + 1,)
            max_length_q=mask.shape[1],
            predicting=Predicting(is_predicting[mask].nonzero()[:, 0]),
            use_cache=False,
        ).last_hidden_state

    @torch.no_grad()
    def loglikelihood(
        self, inputs: LLMInputs, continuations: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Compute the log-likelihoods of several continuations of one prompt.

        The prompt is encoded once.

        Args:
            inputs: one text.
            continuations: `(tokens,)` each, at least one token.

        Returns:
            The sum of the log-probabilities of each continuation's tokens, `(continuations,)`
            float32, and whether greedy decoding would generate it, `(continuations,)` bool.
        """
        num = len(continuations)
        ids = pad_sequence(list(continuations), batch_first=True, padding_value=IGNORE_INDEX)
        prompt = self.network(
            inputs_embeds=inputs.embeddings,
            attention_mask=inputs.attention_mask,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = prompt.logits.expand(num, -1, -1)  # (continuations, 1, vocabulary)
        if ids.shape[1] > 1:
            prompt.past_key_values.batch_repeat_interleave(num)
            is_token = ids[:, :-1] != IGNORE_INDEX  # (continuations, tokens - 1)
            rest = self.network(
                inputs_embeds=self.embed(ids[:, :-1]),
                attention_mask=torch.cat([inputs.attention_mask.expand(num, -1), is_token], dim=1),
                past_key_values=prompt.past_key_values,
            )
            logits = torch.cat([logits, rest.logits], dim=1)  # (continuations, tokens, vocabulary)
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), ids, ignore_index=IGNORE_INDEX, reduction="none"
        )  # (continuations, tokens)
        is_greedy = (logits.argmax(dim=-1) == ids) | (ids == IGNORE_INDEX)
        return -losses.sum(dim=1), is_greedy.all(dim=1)  # (continuations,), (continuations,)

    @torch.no_grad()
    def backpropagate(self, inputs: LLMInputs, continuation: Tensor) -> Iterator[Tensor]:
        """Backpropagate the log-probability of a continuation, with activation checkpointing.

        The forward pass keeps the input of each layer and no other activations. Each step of the
        backward pass recomputes one layer; the caller may stop between two steps.

        Args:
            inputs: one text without padding.
            continuation: `(tokens,)`, at least one token.

        Yields:
            Gradients of the log-probability, `(1, text + continuation, dim)`: of the output of the
            last layer, then of the input of each layer, from the last layer to the first. So the
            last one is that of the embeddings.
        """
        embedded = self.embed(continuation)[None]  # (1, continuation, dim)
        embeddings = torch.cat([inputs.embeddings, embedded], dim=1)  # (1, tokens, dim)
        calls = record_layer_calls(self.network.model, embeddings)
        norm, last_hidden = calls.pop()

        def log_probability(hidden: Tensor) -> Tensor:
            predicting = norm(hidden)[0, -len(continuation) - 1 : -1]  # (continuation, dim)
            logits = self.network.lm_head(predicting).float()  # (continuation, vocabulary)
            return -F.cross_entropy(logits, continuation, reduction="sum")  # ()

        gradient = input_gradient(log_probability, last_hidden)  # (1, tokens, dim)
        yield gradient
        while calls:
            gradient = input_gradient(*calls.pop(), gradient)  # (1, tokens, dim)
            yield gradient

    def logits(self, inputs: LLMInputs) -> Tensor:
        """Compute the logits at every token, `(texts, tokens, vocabulary)`, for inspection."""
        return self.network(
            inputs_embeds=inputs.embeddings, attention_mask=inputs.attention_mask, use_cache=False
        ).logits

    @torch.no_grad()
    def read(self, embeddings: Sequence[Tensor], caches: Sequence[SequenceCache]) -> Tensor:
        """Read further tokens of several sequences in one forward pass.

        A sequence may begin, go on with a part of its prompt, or with its latest token; a batch may
        have all of these. `use_packed_attention` must have been called.

        Args:
            embeddings: `(new tokens, dim)` of each sequence, at least one token.
            caches: of the tokens before; the new ones are added.

        Returns:
            Logits of the next token of each sequence, `(sequences, vocabulary)`.
        """
        batch = SequenceBatch(caches, [len(tokens) for tokens in embeddings])
        device = embeddings[0].device
        logits: Tensor = self.network(
            inputs_embeds=torch.cat(list(embeddings))[None],  # (1, tokens, dim)
            position_ids=batch.positions().to(device)[None],  # (1, tokens)
            attention_mask=self.backbone.packed_mask(device),
            sequences=batch,
            use_cache=False,
            logits_to_keep=batch.last_rows().to(device),
        ).logits[0]  # (sequences, vocabulary)
        batch.finish()
        return logits

    @torch.no_grad()
    def generate(
        self,
        inputs: LLMInputs,
        max_new_tokens: int,
        end_id: int,
        any_rank: Callable[[bool], bool] = bool,
        select: Callable[[Tensor], Tensor] | None = None,
        num_copies: int = 1,
    ) -> Iterator[Tensor]:
        """Generate until all texts have ended, greedily by default; they begin and end together.

        Answers of users join and leave at any time: `inference.batching` generates them.

        Args:
            inputs: prompts, padded on the left.
            max_new_tokens: most tokens per text.
            end_id: token that ends a text.
            any_rank: reduces a flag over the ranks (logical or). Each rank of a sharded model needs
                the others for each token, so all go on until the last text of any rank has ended.
            select: from logits `(texts, vocabulary)` to tokens `(texts,)`; the most likely if None.
            num_copies: continuations of each prompt, which is encoded once for all of them.

        Yields:
            The next token of each text, `(texts,)`; `end_id` for a text that has ended. Close the
            iterator to stop early.
        """
        embeddings, mask, cache = inputs.embeddings, inputs.attention_mask, None
        num_texts = len(mask) * num_copies
        has_ended = torch.zeros(num_texts, dtype=torch.bool, device=mask.device)  # (texts,)
        for step in range(max_new_tokens):
            output = self.network(
                inputs_embeds=embeddings,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1]  # (texts, vocabulary)
            if step == 0 and num_copies > 1:
                output.past_key_values.batch_repeat_interleave(num_copies)
                logits = logits.repeat_interleave(num_copies, dim=0)  # (texts, vocabulary)
                mask = mask.repeat_interleave(num_copies, dim=0)  # (texts, tokens)
            tokens = logits.argmax(dim=-1) if select is None else select(logits)  # (texts,)
            tokens = tokens.masked_fill(has_ended, end_id)  # (texts,)
            yield tokens
            has_ended |= tokens == end_id
            if not any_rank(not has_ended.all()):
                return
            cache, embeddings = output.past_key_values, self.embed(tokens[:, None])
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)  # (texts, tokens + 1)
