"""Grouped-query attention with rotary positions and a KV cache, on unbatched sequences.

Source: reference arithmetic of Hour-LLaVA, MemAug.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUERY_CHUNK = 64  # queries per chunk of attention weights; an hour of memory has 1 GB of scores

Rotary = tuple[Tensor, Tensor]  # cosines and sines of positions, each (tokens, head_dim / 4)


class MemoryTokens(Protocol):
    """Tokens that attention reads, however they are stored (see `memory_repository`)."""

    def gather(self, indices: Tensor) -> Tensor:
        """Return some of the tokens: indices `(kept,)` -> `(kept, dim)`."""

    def linear(self, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """Apply linear layers to all tokens: `(tokens, out_features)` for each layer."""

    def dense(self) -> Tensor:
        """Return all tokens, `(tokens, dim)`."""


@dataclass(frozen=True)
class KVCache:
    """Keys and values of a sequence for one attention layer.

    Attributes:
        keys: `(tokens, key_value_heads, head_dim)`, with rotary positions applied.
        values: `(tokens, key_value_heads, head_dim)`.
    """

    keys: Tensor
    values: Tensor


class RotaryEmbedding(nn.Module):
    """Rotary position embedding of the first half of each head, in pairs (i, i + head_dim / 4)."""

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.rotated_dim = head_dim // 2
        self.theta = theta

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotary:
        """Compute the cosines and sines of positions, each `(tokens, head_dim / 4)`.

        The angles are float32, since an hour has 234,000 positions; only the result has `dtype`.

        Args:
            positions: `(tokens,)`.
            dtype: of the cosines and sines.
        """
        with torch.autocast(positions.device.type, enabled=False):
            steps = torch.arange(
                0, self.rotated_dim, 2, dtype=torch.float32, device=positions.device
            )  # (head_dim / 4,)
            frequencies = 1.0 / self.theta ** (steps / self.rotated_dim)  # (head_dim / 4,)
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
    read once. Sequences are unbatched, because videos differ too much in length to be padded.
    """

    def __init__(self, dim: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, num_key_value_heads * self.head_dim)
        self.value = nn.Linear(dim, num_key_value_heads * self.head_dim)
        self.output = nn.Linear(dim, dim)

    def project_kv(self, tokens: MemoryTokens, rotary: Rotary) -> KVCache:
        """Project tokens to keys and values."""
        keys, values = (
            projected.unflatten(-1, (-1, self.head_dim))  # (tokens, key_value_heads, head_dim)
            for projected in tokens.linear(self.key, self.value)
        )
        return KVCache(apply_rotary(keys, rotary), values)

    def forward(self, query: Tensor, kv: KVCache, rotary: Rotary) -> Tensor:
        """Attend from each token of the query to the whole KV cache.

        Args:
            query: `(query, dim)`.
            kv: keys and values to attend to.
            rotary: of the positions of the query.

        Returns:
            `(query, dim)`.
        """
        heads = self.query(query).unflatten(-1, (-1, self.head_dim))  # (query, heads, head_dim)
        heads = apply_rotary(heads, rotary)
        groups = heads.unflatten(1, (kv.keys.shape[1], -1))  # (query, kv_heads, group, head_dim)
        groups = groups.permute(1, 2, 0, 3)  # (kv_heads, group, query, head_dim)
        attended = F.scaled_dot_product_attention(
            groups.flatten(1, 2)[None],
            kv.keys.transpose(0, 1)[None],
            kv.values.transpose(0, 1)[None],
        )[0]  # (kv_heads, group * query, head_dim)
        attended = attended.unflatten(1, (-1, len(query)))  # (kv_heads, group, query, head_dim)
        attended = attended.permute(2, 0, 1, 3)  # (query, kv_heads, group, head_dim)
        return self.output(attended.flatten(1))  # (query, dim)

    def attention_weights(self, query: Tensor, kv: KVCache, rotary: Rotary) -> Tensor:
        """Compute the attention weight of each token of the KV cache, `(tokens,)`.

        The weights are means over the query's tokens and heads; they sum to 1.
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
