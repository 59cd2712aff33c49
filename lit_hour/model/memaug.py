"""MemAug: the question and the kept visual tokens attend to the full memory repository.

Source: Hour-LLaVA (arXiv:2506.05332), memory augmentation; reference arithmetic for the order of
layers, norms and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_hour.model.attention import (
    GroupedQueryAttention,
    KVCache,
    MemoryTokens,
    Rotary,
    RotaryEmbedding,
)
from lit_hour.model.memory_repository import DenseTokens, MemoryRepository

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class MemAugQuery:
    """The tokens of one text that attend to a memory repository, in text order.

    Attributes:
        tokens: `(query, dim)`, the question and the kept visual tokens.
        positions: `(query,)`, rotary positions.
        is_visual: `(query,)` bool.
        num_visual_tokens: number of visual tokens at each placeholder.
    """

    tokens: Tensor
    positions: Tensor
    is_visual: Tensor
    num_visual_tokens: list[int]


class MemoryAugmentationBlock(nn.Module):
    """Self-attention of the query, cross-attention to the memory, FFN; each with a post-norm.

    Activation checkpointing of the FFN saves a third of the block's activations. For an hour it
    costs 0.3% of the operations.
    """

    def __init__(
        self, dim: int, num_heads: int, num_key_value_heads: int, use_full_memory: bool
    ) -> None:
        super().__init__()
        self.use_full_memory = use_full_memory
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
        queries: Sequence[Tensor],
        query_rotary: Sequence[Rotary],
        memories: Sequence[tuple[MemoryTokens, Rotary]],
        kv_caches: Sequence[KVCache],
        memory_of_query: Sequence[int],
    ) -> list[Tensor]:
        """Augment the queries of all texts of a batch.

        Each memory is projected once for all its queries. With FSDP the block is gathered once for
        all texts, so ranks with different numbers of texts stay in step.

        Args:
            queries: `(query, dim)` for each text.
            query_rotary: of the positions of each query.
            memories: tokens of each memory, and the rotary of their positions.
            kv_caches: of each memory; empty to project `memories`.
            memory_of_query: for each query, the index of its memory.

        Returns:
            `(query, dim)` for each text.
        """
        kv_caches = kv_caches or [self.cross_attention.project_kv(*memory) for memory in memories]
        outputs = []
        for query, rotary, memory in zip(queries, query_rotary, memory_of_query, strict=True):
            kv = self.self_attention.project_kv(DenseTokens(query), rotary)
            attended = self.self_attention(query, kv, rotary)  # (query, dim)
            hidden = self.self_attention_norm(query + attended)  # (query, dim)
            if self.use_full_memory:
                kv = kv_caches[memory]
            else:
                kv = self.cross_attention.project_kv(DenseTokens(hidden), rotary)
            attended = self.cross_attention(hidden, kv, rotary)  # (query, dim)
            hidden = self.cross_attention_norm(hidden + attended)  # (query, dim)
            expanded = checkpoint(
                self.feed_forward, hidden, use_reentrant=False, preserve_rng_state=False
            )  # (query, dim)
            outputs.append(self.feed_forward_norm(hidden + expanded))  # (query, dim)
        return outputs


class MemoryAugmentation(nn.Module):
    """MemAug: a stack of blocks that all attend to the same memory.

    With `use_full_memory` false each block attends to its own query instead, with the same number
    of parameters (an ablation).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_key_value_heads: int,
        num_layers: int,
        rope_theta: float,
        initializer_range: float = 0.02,
        use_full_memory: bool = True,
    ) -> None:
        super().__init__()
        self.initializer_range = initializer_range
        self.use_full_memory = use_full_memory
        self.rotary = RotaryEmbedding(dim // num_heads, rope_theta)
        self.blocks = nn.ModuleList(
            MemoryAugmentationBlock(dim, num_heads, num_key_value_heads, use_full_memory)
            for _ in range(num_layers)
        )
        self.apply(self.init_weights)

    def forward(
        self,
        queries: Sequence[MemAugQuery],
        repositories: Sequence[MemoryRepository],
        repository_of_query: Sequence[int],
    ) -> list[Tensor]:
        """Augment the queries of all texts of a batch with the repositories.

        Args:
            queries: of each text.
            repositories: of each visual. If all have KV caches, those are used.
            repository_of_query: for each query, the index of its repository.

        Returns:
            `(query, dim)` for each text.
        """
        dtype = queries[0].tokens.dtype
        query_rotary = [self.rotary(query.positions, dtype) for query in queries]
        is_cached = all(repository.kv_caches for repository in repositories)
        memories: list[tuple[MemoryTokens, Rotary]] = []
        if self.use_full_memory and not is_cached:
            memories = [
                (repository.memory, self.rotary(repository.positions, dtype))
                for repository in repositories
            ]
        hidden = [query.tokens for query in queries]  # (query, dim) for each text
        for index, block in enumerate(self.blocks):
            caches = [repository.kv_caches[index] for repository in repositories if is_cached]
            hidden = block(hidden, query_rotary, memories, caches, repository_of_query)
        return hidden

    def build_kv_caches(
        self, memory: MemoryTokens, positions: Tensor, dtype: torch.dtype
    ) -> tuple[KVCache, ...]:
        """Build the KV cache of a memory for each block, to answer several questions about it.

        Without `use_full_memory` there are none.

        Args:
            memory: tokens.
            positions: `(tokens,)`.
            dtype: of the queries.
        """
        if not self.use_full_memory:
            return ()
        rotary = self.rotary(positions, dtype)
        return tuple(block.cross_attention.project_kv(memory, rotary) for block in self.blocks)  # type: ignore[union-attr, operator]

    def init_weights(self, layer: nn.Module) -> None:
        """Initialize a linear layer at random; other layers keep their weights."""
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=self.initializer_range)
            nn.init.zeros_(layer.bias)
