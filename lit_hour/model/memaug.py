"""MemAug: the question and the kept visual tokens attend to the full memory repository.

Entry point: `MemoryAugmentation`, a stack of blocks with grouped-query attention and rotary
positions. Memories are not padded to a batch, because videos differ too much in length. The queries
of all texts about one memory lie one after another and pass through a block together. Only the
visual tokens of the result are used, so the last block computes no others.

Source: Hour-LLaVA (arXiv:2506.05332), memory augmentation. The order of layers, norms and positions
is that of its published code, whose outputs are recorded in tests/golden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from lit_hour.model.memory_repository import DenseTokens, KVCache, MemoryRepository, MemoryTokens
from lit_hour.model.sharded_memory import attend_sharded

LAYER_NORM_EPS = 1e-5
QUERY_CHUNK = 64  # queries per chunk of attention weights; an hour of memory has 1 GB of scores
FEED_FORWARD_CHUNK = 16_384  # tokens per chunk of the FFN; its hidden layer is 4 times as wide

Rotary = tuple[Tensor, Tensor]  # cosines and sines of positions, each (tokens, head_dim / 4)


class TokenSelection(NamedTuple):
    """Some tokens of the texts of a memory, which lie one after another.

    Attributes:
        indices: `(selected,)`, ascending.
        lengths: the number of selected tokens of each text.
    """

    indices: Tensor
    lengths: list[int]


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


def rotary_embedding(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Compute the rotary embedding of positions, for the first half of each head.

    The angles are float32, since an hour has 234,000 positions; only the result has `dtype`.

    Args:
        positions: `(tokens,)`, integers from 0.
        head_dim: width of a head, a multiple of 4; dimensions i and i + head_dim / 4 are a pair.
        theta: base of the frequencies.
        dtype: of the result.

    Returns:
        Cosines and sines, each `(tokens, head_dim / 4)`.
    """
    rotated_dim = head_dim // 2
    with torch.autocast(positions.device.type, enabled=False):
        steps = torch.arange(0, rotated_dim, 2, dtype=torch.float32, device=positions.device)
        frequencies = 1.0 / theta ** (steps / rotated_dim)  # (head_dim / 4,)
        angles = torch.outer(positions.float(), frequencies)  # (tokens, head_dim / 4)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(heads: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the first half of each head by its token's angles.

    Args:
        heads: `(tokens, heads, head_dim)`.
        rotary: cosines and sines of the tokens' positions.

    Returns:
        `(tokens, heads, head_dim)`.
    """
    cosine, sine = (table[:, None] for table in rotary)  # (tokens, 1, head_dim / 4)
    quarter = heads.shape[-1] // 4
    left, right, rest = heads.split([quarter, quarter, heads.shape[-1] - 2 * quarter], dim=-1)
    rotated = [left * cosine - right * sine, left * sine + right * cosine, rest]
    return torch.cat(rotated, dim=-1)  # (tokens, heads, head_dim)


class GroupedQueryAttention(nn.Module):
    """Grouped-query attention without a causal mask.

    The query heads of a group are stacked along the sequence axis, so that each key/value head is
    read once. Sequences lie one after another, without padding.
    """

    def __init__(self, dim: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, num_key_value_heads * self.head_dim)
        self.value = nn.Linear(dim, num_key_value_heads * self.head_dim)
        self.output = nn.Linear(dim, dim)

    def project_kv(self, tokens: MemoryTokens, rotary: Rotary) -> KVCache:
        """Project tokens to keys and values.

        Args:
            tokens: `(tokens, dim)`, stored densely or lazily.
            rotary: of the positions of the tokens.
        """
        keys, values = (
            projected.unflatten(-1, (-1, self.head_dim))  # (tokens, key_value_heads, head_dim)
            for projected in tokens.linear(self.key, self.value)
        )
        return KVCache(apply_rotary(keys, rotary), values)

    def forward(
        self,
        query: Tensor,
        kv: KVCache,
        rotary: Rotary,
        query_lengths: Sequence[int] = (),
        kv_lengths: Sequence[int] = (),
    ) -> Tensor:
        """Attend from each token of the query to the KV cache.

        Args:
            query: `(query, dim)`.
            kv: keys and values to attend to.
            rotary: of the positions of the query.
            query_lengths: of the texts that lie one after another in `query`, for the
                self-attention of each; empty to attend from all of `query` to all of `kv`.
            kv_lengths: of the same texts in `kv`.

        Returns:
            `(query, dim)`.
        """
        heads = self.query(query).unflatten(-1, (-1, self.head_dim))  # (query, heads, head_dim)
        heads = apply_rotary(heads, rotary)
        if len(query_lengths) <= 1:
            return self.output(self._attend(heads, kv.keys, kv.values, kv.group))  # (query, dim)
        texts = zip(
            heads.split(query_lengths),
            kv.keys.split(kv_lengths),
            kv.values.split(kv_lengths),
            strict=True,
        )
        return self.output(torch.cat([self._attend(*text) for text in texts]))  # (query, dim)

    def _attend(
        self, heads: Tensor, keys: Tensor, values: Tensor, ranks: ProcessGroup | None = None
    ) -> Tensor:
        groups = heads.unflatten(1, (keys.shape[1], -1))  # (query, kv_heads, group, head_dim)
        groups = groups.permute(1, 2, 0, 3).flatten(1, 2)  # (kv_heads, group * query, head_dim)
        keys, values = keys.transpose(0, 1), values.transpose(0, 1)  # (kv_heads, tokens, head_dim)
        if ranks is not None:
            attended = attend_sharded(groups, keys, values, ranks)
        else:
            attended = F.scaled_dot_product_attention(groups[None], keys[None], values[None])[0]
        # (kv_heads, group * query, head_dim)
        attended = attended.unflatten(1, (-1, len(heads)))  # (kv_heads, group, query, head_dim)
        return attended.permute(2, 0, 1, 3).flatten(1)  # (query, dim)

    def attention_weights(self, query: Tensor, kv: KVCache, rotary: Rotary) -> Tensor:
        """Compute the attention weight of each token of the KV cache.

        Args:
            query: `(query, dim)`.
            kv: keys and values that are attended to.
            rotary: of the positions of the query.

        Returns:
            `(tokens,)` float32, means over the query's tokens and heads: from 0 to 1, and 1 in sum.
        """
        heads = self.query(query).unflatten(-1, (-1, self.head_dim))  # (query, heads, head_dim)
        heads = apply_rotary(heads, rotary)
        group_size = heads.shape[1] // kv.keys.shape[1]
        keys = kv.keys.repeat_interleave(group_size, dim=1)  # (tokens, heads, head_dim)
        total = heads.new_zeros(len(keys), dtype=torch.float32)  # (tokens,)
        for chunk in heads.float().split(QUERY_CHUNK):
            scores = torch.einsum("qhd,mhd->hqm", chunk, keys.float()) * self.head_dim**-0.5
            total += scores.softmax(dim=-1).sum(dim=(0, 1))  # (tokens,)
        return total / heads.shape[:2].numel()


class MemoryAugmentationBlock(nn.Module):
    """Self-attention of the query, cross-attention to the memory, FFN; each with a post-norm.

    Activation checkpointing of the FFN's GELU keeps one of two hidden layers that are 4 times as
    wide as the query, and recomputes no matrix product.
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
        text_lengths: Sequence[Sequence[int]],
        memories: Sequence[tuple[MemoryTokens, Rotary]],
        kv_caches: Sequence[KVCache],
        selections: Sequence[TokenSelection] = (),
    ) -> list[Tensor]:
        """Augment the queries of all texts of a batch.

        Each memory is projected once for all its texts, and their queries pass through each layer
        together; only their self-attention is computed text by text. With FSDP the block is
        gathered once for all memories, so ranks with different numbers of texts stay in step.

        Args:
            queries: `(query, dim)` for each memory: those of all its texts, one after another.
            query_rotary: of the positions of each query.
            text_lengths: for each memory, the number of tokens of each text in its query.
            memories: tokens of each memory, and the rotary of their positions.
            kv_caches: of each memory; empty to project `memories`.
            selections: for each memory, the tokens of its query whose results are used; empty for
                all. The others are keys and values of the self-attention, and nothing else.

        Returns:
            `(query, dim)` for each memory, or `(selected, dim)`.
        """
        kv_caches = kv_caches or [self.cross_attention.project_kv(*memory) for memory in memories]
        outputs = []
        for index, (query, rotary) in enumerate(zip(queries, query_rotary, strict=True)):
            lengths = kv_lengths = text_lengths[index]
            kv = self.self_attention.project_kv(DenseTokens(query), rotary)
            if selections and self.use_full_memory:
                indices, lengths = selections[index]
                query, rotary = _select(query, rotary, indices)  # (selected, dim)
            attended = self.self_attention(query, kv, rotary, lengths, kv_lengths)  # (query, dim)
            hidden = self.self_attention_norm(query + attended)  # (query, dim)
            if self.use_full_memory:
                attended = self.cross_attention(hidden, kv_caches[index], rotary)  # (query, dim)
            else:
                kv = self.cross_attention.project_kv(DenseTokens(hidden), rotary)
                if selections:
                    indices, lengths = selections[index]
                    hidden, rotary = _select(hidden, rotary, indices)  # (selected, dim)
                attended = self.cross_attention(
                    hidden, kv, rotary, lengths, kv_lengths
                )  # (query, dim)
            hidden = self.cross_attention_norm(hidden + attended)  # (query, dim)
            expanded = [self._feed_forward(chunk) for chunk in hidden.split(FEED_FORWARD_CHUNK)]
            outputs.append(self.feed_forward_norm(hidden + torch.cat(expanded)))  # (query, dim)
        return outputs

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        expand, *rest = self.feed_forward
        return checkpoint(
            nn.Sequential(*rest), expand(hidden), use_reentrant=False, preserve_rng_state=False
        )  # (query, dim)


def _select(tokens: Tensor, rotary: Rotary, indices: Tensor) -> tuple[Tensor, Rotary]:
    cosine, sine = (table.index_select(0, indices) for table in rotary)
    return tokens.index_select(0, indices), (cosine, sine)  # (selected, dim)


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
        initial_output_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.initializer_range = initializer_range
        self.initial_output_std = initial_output_std
        self.use_full_memory = use_full_memory
        self.head_dim, self.rope_theta = dim // num_heads, rope_theta
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
            queries: of each text, with tokens `(query, dim)`.
            repositories: of each visual. If all have KV caches, those are used.
            repository_of_query: for each query, the index of its repository.

        Returns:
            `(visual, dim)` for each text: its visual tokens, augmented.
        """
        dtype = queries[0].tokens.dtype
        head_dim, theta = self.head_dim, self.rope_theta
        texts_of: dict[int, list[int]] = {}  # indices of the texts of each repository
        for text, index in enumerate(repository_of_query):
            texts_of.setdefault(index, []).append(text)
        groups = [[queries[text] for text in texts] for texts in texts_of.values()]
        text_lengths = [[len(query.tokens) for query in group] for group in groups]
        hidden = [torch.cat([query.tokens for query in group]) for group in groups]  # (query, dim)
        positions = [torch.cat([query.positions for query in group]) for group in groups]
        query_rotary = [rotary_embedding(one, head_dim, theta, dtype) for one in positions]
        used = [repositories[index] for index in texts_of]
        is_cached = all(repository.kv_caches for repository in used)
        memories: list[tuple[MemoryTokens, Rotary]] = []
        if self.use_full_memory and not is_cached:
            memories = [
                (one.memory, rotary_embedding(one.positions, head_dim, theta, dtype))
                for one in used
            ]
        selections = [select_visual_tokens(group) for group in groups]
        checkpoints_blocks = torch.is_grad_enabled() and not self.training  # as for attribution
        for index, block in enumerate(self.blocks):
            caches = [repository.kv_caches[index] for repository in used if is_cached]
            selected = selections if index == len(self.blocks) - 1 else []
            inputs = (hidden, query_rotary, text_lengths, memories, caches, selected)
            if checkpoints_blocks:
                hidden = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = block(*inputs)  # (query, dim) for each repository, at last (visual, dim)
        if not self.blocks:
            pairs = zip(hidden, selections, strict=True)
            hidden = [tokens.index_select(0, one.indices) for tokens, one in pairs]  # (visual, dim)
        augmented: dict[int, Tensor] = {}
        for texts, tokens, one in zip(texts_of.values(), hidden, selections, strict=True):
            augmented.update(zip(texts, tokens.split(one.lengths), strict=True))  # (visual, dim)
        return [augmented[text] for text in range(len(queries))]

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
        rotary = rotary_embedding(positions, self.head_dim, self.rope_theta, dtype)
        return tuple(block.cross_attention.project_kv(memory, rotary) for block in self.blocks)  # type: ignore[union-attr, operator]

    def init_weights(self, layer: nn.Module) -> None:
        """Initialize a linear layer or the last norm; other layers keep their weights."""
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=self.initializer_range)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm) and layer is self.blocks[-1].feed_forward_norm:
            nn.init.constant_(layer.weight, self.initial_output_std)


def select_visual_tokens(queries: Sequence[MemAugQuery]) -> TokenSelection:
    """Select the visual tokens of queries that lie one after another."""
    is_visual = torch.cat([query.is_visual for query in queries])  # (query,)
    lengths = [sum(query.num_visual_tokens) for query in queries]
    return TokenSelection(is_visual.nonzero()[:, 0], lengths)
