"""Prefix caching: what earlier turns computed, so that a further turn costs its own tokens.

`AugmentationCache` keeps the visual tokens, `PrefixCache` the KV cache of the language model. A
prefix is found by its embeddings, visual tokens included, so another video or question has none.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_hour.model.memaug import MemAugQuery
from lit_hour.model.memory_repository import MemoryRepository
from lit_hour.model.sequence_cache import SequenceCache


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
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)  # with spare capacity

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

    def find(self, embeddings: Tensor) -> SequenceCache | None:
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
        return SequenceCache(
            [
                (keys[:, :, :length], values[:, :, :length])  # (1, heads, length, head_dim)
                for keys, values in self._entries[best].layers
            ]
        )

    def add(self, embeddings: Tensor, cache: SequenceCache) -> None:
        """Keep a prompt, in place of the earlier turns of its conversation.

        Args:
            embeddings: `(tokens, dim)`.
            cache: after the prompt was read.
        """
        entry = CachedTokens(embeddings, cache.layers)
        if entry.num_bytes > self._budget_bytes:
            return
        for key, earlier in list(self._entries.items()):
            if earlier.common_length(entry.embeddings) == len(earlier.embeddings):
                del self._entries[key]
        self._entries[self._next_key] = entry
        self._next_key += 1
        while self.num_bytes > self._budget_bytes:
            self._entries.popitem(last=False)


@dataclass(frozen=True, eq=False)
class AugmentedQuery:
    """A query of MemAug with its result, `(visual, dim)`."""

    repository: weakref.ref[MemoryRepository]
    query: MemAugQuery
    result: Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of the tokens, without the repository."""
        tensors = (self.query.tokens, self.query.positions, self.result)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def matches(self, repository: MemoryRepository, query: MemAugQuery) -> bool:
        """Return whether a query to a repository has this result."""
        return (
            self.repository() is repository
            and self.query.num_visual_tokens == query.num_visual_tokens
            and torch.equal(self.query.positions, query.positions)
            and torch.equal(self.query.tokens, query.tokens)
        )


class AugmentationCache:
    """LRU cache of MemAug's results, up to a budget; called in place of MemAug.

    Attributes:
        num_reused: results that were not computed again.
    """

    def __init__(self, memaug: Callable[..., list[Tensor]], budget_bytes: int) -> None:
        """Args: budget_bytes: of all tensors; 0 keeps nothing."""
        self.num_reused = 0
        self._memaug, self._budget_bytes = memaug, budget_bytes
        self._entries: list[AugmentedQuery] = []  # the least recently used first

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.num_bytes for entry in list(self._entries))

    def __call__(
        self,
        queries: Sequence[MemAugQuery],
        repositories: Sequence[MemoryRepository],
        repository_of_query: Sequence[int],
    ) -> list[Tensor]:
        """Return the result of one query from the cache; several, or with gradients, anew."""
        if len(queries) != 1 or torch.is_grad_enabled():
            return self._memaug(queries, repositories, repository_of_query)
        query, repository = queries[0], repositories[repository_of_query[0]]
        self._entries = [entry for entry in self._entries if entry.repository() is not None]
        for entry in self._entries:
            if entry.matches(repository, query):
                self._entries.remove(entry)
                self._entries.append(entry)
                self.num_reused += 1
                return [entry.result]
        (result,) = self._memaug(queries, repositories, repository_of_query)
        self._entries.append(AugmentedQuery(weakref.ref(repository), query, result))
        while self.num_bytes > self._budget_bytes:
            del self._entries[0]
        return [result]
