"""MemAug: the surviving tokens and the question look back into everything that was seen.

Source: Hour-LLaVA (arXiv:2506.05332), memory augmentation; reference arithmetic for order, norms and positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_hour.model.attention import GroupedQueryAttention, KVCache, RotaryEmbedding
from lit_hour.model.memory_repository import LazyTokens, MemoryTokens

LAYER_NORM_EPS = 1e-5

PreparedMemory = tuple[KVCache, ...]  # of each block


class MemoryAugmentationBlock(nn.Module):
    """Self-attention over the query, cross-attention into the memory, feed-forward; each added, then normalised.

    The feed-forward is computed again in the backward pass: of an hour that is 0.3% of the arithmetic, and its wide layer is
    a third of all that a block would keep.
    """

    def __init__(self, dim: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.self_attention = GroupedQueryAttention(dim, num_heads, num_key_value_heads)
        self.self_attention_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.cross_attention = GroupedQueryAttention(dim, num_heads, num_key_value_heads)
        self.cross_attention_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )
        self.feed_forward_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)

    def forward(
        self,
        query: Tensor,
        memory: MemoryTokens | KVCache | None,
        query_angles: tuple[Tensor, Tensor],
        memory_angles: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """`query` `(query, dim)` and `memory` `(memory, dim)`, or what was prepared of it -> `(query, dim)`."""
        query = self.self_attention_norm(
            query + self.self_attention(query, query, query_angles, query_angles)
        )  # (query, dim)
        looked_into = query if memory is None else memory
        asked_angles = query_angles if memory_angles is None else memory_angles
        query = self.cross_attention_norm(
            query + self.cross_attention(query, looked_into, query_angles, asked_angles)
        )  # (query, dim)
        fed = checkpoint(
            self.feed_forward, query, use_reentrant=False, preserve_rng_state=False
        )  # (query, dim)
        return self.feed_forward_norm(query + fed)  # (query, dim)

    def forward_many(
        self,
        queries: Sequence[Tensor],
        memories: Sequence[MemoryTokens | KVCache | None],
        memory_of_query: Sequence[int],
        query_angles: Sequence[tuple[Tensor, Tensor]],
        memory_angles: Sequence[tuple[Tensor, Tensor] | None],
    ) -> list[Tensor]:
        """The same for several queries, which share memories: `(query, dim)` for each.

        A memory that several ask is prepared once for all of them. A sharded block is gathered once for all queries, so that
        ranks with more and with fewer texts stay in step.
        """
        counts = Counter(memory_of_query)
        asked = [
            self.cross_attention.project_kv(memory, angles)
            if angles and counts[place] > 1
            else memory  # type: ignore[arg-type]
            for place, (memory, angles) in enumerate(zip(memories, memory_angles, strict=True))
        ]
        return [
            self.forward(query, asked[place], angles, memory_angles[place])
            for query, place, angles in zip(queries, memory_of_query, query_angles, strict=True)
        ]


class MemoryAugmentation(nn.Module):
    """A stack of blocks that all look into the same memory, which stays as it is."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_key_value_heads: int,
        num_layers: int,
        rope_theta: float,
        initializer_range: float = 0.02,
    ) -> None:
        super().__init__()
        self.initializer_range = initializer_range
        self.rotary = RotaryEmbedding(dim // num_heads, rope_theta)
        self.blocks = nn.ModuleList(
            MemoryAugmentationBlock(dim, num_heads, num_key_value_heads) for _ in range(num_layers)
        )
        self.apply(self.init_weights)

    def build_kv_caches(
        self, memory: Tensor, positions: Tensor, dtype: torch.dtype
    ) -> PreparedMemory:
        """What each block makes of a memory, whoever asks; `forward` and `each` take it in the memory's place.

        Args:
            memory: `(memory, dim)`.
            positions: `(memory,)`.
            dtype: of the queries to come.
        """
        angles = self.rotary(positions, dtype)
        return tuple(block.cross_attention.project_kv(memory, angles) for block in self.blocks)  # type: ignore[union-attr, operator]

    def forward(
        self,
        query: Tensor,
        memory: Tensor | PreparedMemory | None,
        query_positions: Tensor,
        memory_positions: Tensor | None,
    ) -> Tensor:
        """Look back.

        Args:
            query: `(query, dim)` the question's tokens and the surviving tokens of one video, in text order.
            memory: `(memory, dim)` every token of that video; None: each block looks into its own query, which is the same
                amount of arithmetic without a memory.
            query_positions: `(query,)`.
            memory_positions: `(memory,)`; None where the memory is, or where it was prepared.

        Returns:
            `(query, dim)`.
        """
        return self.forward_many([query], [memory], [0], [query_positions], [memory_positions])[0]

    def forward_many(
        self,
        queries: Sequence[Tensor],
        memories: Sequence[MemoryTokens | PreparedMemory | None],
        memory_of_query: Sequence[int],
        query_positions: Sequence[Tensor],
        memory_positions: Sequence[Tensor | None],
    ) -> list[Tensor]:
        """The same for several queries, which share memories: `(query, dim)` for each.

        Args:
            memory_of_query: for each query, which of `memories` it looks into.
        """
        dtype = queries[0].dtype
        query_angles = [self.rotary(positions, dtype) for positions in query_positions]
        memory_angles = [
            None if positions is None else self.rotary(positions, dtype)
            for positions in memory_positions
        ]
        for place, block in enumerate(self.blocks):
            looked_into = [_for_block(memory, place) for memory in memories]
            queries = block.forward_many(
                queries, looked_into, memory_of_query, query_angles, memory_angles
            )  # type: ignore[operator]
        return list(queries)  # (query, dim) for each

    def init_weights(self, layer: nn.Module) -> None:
        """Random weights of a linear layer; other layers are left as they are."""
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=self.initializer_range)
            nn.init.zeros_(layer.bias)


def _for_block(
    memory: MemoryTokens | PreparedMemory | None, place: int
) -> MemoryTokens | KVCache | None:
    is_prepared = isinstance(memory, tuple) and not isinstance(memory, LazyTokens)
    return memory[place] if is_prepared else memory  # type: ignore[index, return-value]
