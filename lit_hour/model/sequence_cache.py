"""KV caches of single sequences, and attention of a batch in which every sequence has its own.

Entry points: `SequenceCache`, and `SequenceBatch`, which `LanguageModel.read` passes to the
attention layers. Sequences of any lengths share a forward pass without padding: linear layers see
the new tokens of all of them at once, and attention is computed for each sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SPARE_TOKENS = 256  # allocated at once, so that a token is written and not the cache copied


class SequenceCache:
    """Keys and values of one sequence in all layers, with spare capacity for further tokens.

    Attributes:
        num_tokens: that all layers have read.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        """Start with tokens that were read before.

        Args:
            layers: keys and values of each layer, `(1, heads, tokens, head_dim)`; empty for a new
                sequence. They are shared until the next token, and never written to.
        """
        self.num_tokens = layers[0][0].shape[2] if layers else 0
        self._buffers = list(layers)

    @property
    def layers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Keys and values of each layer, `(1, heads, tokens, head_dim)`; they never change."""
        end = self.num_tokens
        return tuple((keys[:, :, :end], values[:, :, :end]) for keys, values in self._buffers)

    def fork(self) -> SequenceCache:
        """Return the cache of a sequence that goes on from here in its own way."""
        return SequenceCache(self.layers)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens to one layer.

        Args:
            layer: index; the layers follow each other.
            keys: `(1, heads, new tokens, head_dim)`.
            values: like `keys`.

        Returns:
            Keys and values of all tokens, `(1, heads, tokens, head_dim)`.
        """
        start, end = self.num_tokens, self.num_tokens + keys.shape[2]
        if layer == len(self._buffers):
            self._buffers.append((keys[:, :, :0], values[:, :, :0]))
        if end > self._buffers[layer][0].shape[2]:
            old_keys, old_values = self._buffers[layer]
            self._buffers[layer] = (
                _enlarge(old_keys, start, end + SPARE_TOKENS),
                _enlarge(old_values, start, end + SPARE_TOKENS),
            )
        all_keys, all_values = self._buffers[layer]
        all_keys[:, :, start:end] = keys
        all_values[:, :, start:end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]


@dataclass(frozen=True)
class SequenceBatch:
    """The sequences of one forward pass; their new tokens lie one after the other.

    Attributes:
        caches: of the tokens before.
        counts: new tokens of each sequence, at least one.
    """

    caches: Sequence[SequenceCache]
    counts: Sequence[int]

    def positions(self) -> Tensor:
        """Return the positions of the new tokens, `(tokens,)` int64."""
        return torch.cat(
            [
                torch.arange(cache.num_tokens, cache.num_tokens + count)
                for cache, count in zip(self.caches, self.counts, strict=True)
            ]
        )  # (tokens,)

    def last_rows(self) -> Tensor:
        """Return the index of the last new token of each sequence, `(sequences,)` int64."""
        return torch.tensor(self.counts).cumsum(dim=0) - 1  # (sequences,)

    def finish(self) -> None:
        """Count the new tokens as read, at the end of the forward pass."""
        for cache, count in zip(self.caches, self.counts, strict=True):
            cache.num_tokens += count

    def attend(self, layer: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Add the new tokens to the caches, and attend causally inside each sequence.

        Args:
            layer: attention layer of transformers, with `layer_idx` and `scaling`.
            query: `(1, heads, tokens, head_dim)`.
            key: `(1, key/value heads, tokens, head_dim)`.
            value: like `key`.

        Returns:
            `(1, tokens, heads, head_dim)`.
        """
        outputs = []
        parts = (states.split(list(self.counts), dim=2) for states in (query, key, value))
        for cache, queries, keys, values in zip(self.caches, *parts, strict=True):
            all_keys, all_values = cache.append(layer.layer_idx, keys, values)
            outputs.append(_attend(queries, all_keys, all_values, layer.scaling))
        return torch.cat(outputs, dim=2).transpose(1, 2)  # (1, tokens, heads, head_dim)


def _attend(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """Attend from the last tokens of a sequence to all of it: `(1, heads, new tokens, head_dim)`.

    The query heads that share a key/value head are stacked as further queries of it, so keys and
    values are read once and never repeated. At the beginning of a sequence causal attention without
    a mask is faster, since it skips half of the scores.
    """
    _, num_heads, num_new, head_dim = query.shape
    if 1 < num_new == keys.shape[2]:
        return F.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=scaling, enable_gqa=True
        )  # (1, heads, new tokens, head_dim)
    num_shared, num_tokens = keys.shape[1], keys.shape[2]
    num_stacked = num_heads // num_shared
    stacked = query.reshape(1, num_shared, num_stacked * num_new, head_dim)
    mask = None
    if num_new > 1:
        mask = torch.ones(num_new, num_tokens, dtype=torch.bool, device=query.device)
        mask = mask.tril(num_tokens - num_new)  # (new tokens, tokens)
        mask = mask.repeat(num_stacked, 1)  # (stacked, tokens)
    output = F.scaled_dot_product_attention(stacked, keys, values, attn_mask=mask, scale=scaling)
    return output.reshape(query.shape)  # (1, heads, new tokens, head_dim)


def _enlarge(states: Tensor, num_tokens: int, capacity: int) -> Tensor:
    """Copy the first tokens into a new tensor with capacity for more."""
    _, num_heads, _, head_dim = states.shape
    enlarged = states.new_empty(1, num_heads, capacity, head_dim)  # (1, heads, capacity, head_dim)
    enlarged[:, :, :num_tokens] = states[:, :, :num_tokens]
    return enlarged
