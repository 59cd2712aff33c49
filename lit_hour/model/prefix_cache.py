"""Prefix caching: the KV caches of earlier turns, so that a further turn costs its own tokens.

A prefix is found by its embeddings, visual tokens included, so it is never that of another video
or another question. Entry point: `PrefixCache`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class CachedTokens:
    """A prompt that a decoder has read.

    Attributes:
        embeddings: `(tokens, dim)`.
        layers: keys and values of each layer, `(1, heads, tokens, head_dim)`.
    """

    embeddings: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [self.embeddings, *(tensor for layer in self.layers for tensor in layer)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def common_length(self, embeddings: Tensor) -> int:
        """Return how many tokens `(tokens, dim)` are the same from the first one on."""
        length = min(len(self.embeddings), len(embeddings))
        is_same = (self.embeddings[:length] == embeddings[:length]).all(dim=1)  # (length,)
        return int(is_same.int().cumprod(dim=0).sum())


class PrefixCache:
    """LRU cache of the prompts of conversations, up to a budget.

    Attributes:
        num_reused: tokens that were not read again, in total.
    """

    def __init__(self, budget_bytes: int) -> None:
        """Args: budget_bytes: of all tensors; 0 keeps nothing."""
        self.num_reused = 0
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[int, CachedTokens] = OrderedDict()
        self._next_key = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.num_bytes for entry in list(self._entries.values()))

    def find(self, embeddings: Tensor) -> DynamicCache | None:
        """Return the KV cache of the longest known beginning of a prompt, or None.

        At least the last token is left, since its output is needed.

        Args:
            embeddings: `(tokens, dim)`.
        """
        lengths = {
            key: min(entry.common_length(embeddings), len(embeddings) - 1)
            for key, entry in self._entries.items()
        }
        best = max(lengths, key=lambda key: lengths[key], default=None)
        if best is None or lengths[best] == 0:
            return None
        self._entries.move_to_end(best)
        length = lengths[best]
        self.num_reused += length
        return DynamicCache(
            [
                (keys[:, :, :length], values[:, :, :length])  # (1, heads, length, head_dim)
                for keys, values in self._entries[best].layers
            ]
        )

    def add(self, embeddings: Tensor, cache: Any) -> None:
        """Keep a prompt, in place of the earlier turns of its conversation.

        Args:
            embeddings: `(tokens, dim)`.
            cache: of transformers, after the prompt was read.
        """
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        entry = CachedTokens(embeddings, layers)
        if entry.num_bytes > self._budget_bytes:
            return
        for key, earlier in list(self._entries.items()):
            if earlier.common_length(entry.embeddings) == len(earlier.embeddings):
                del self._entries[key]
        self._entries[self._next_key] = entry
        self._next_key += 1
        while self.num_bytes > self._budget_bytes:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
