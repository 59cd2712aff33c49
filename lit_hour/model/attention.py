"""Attention with grouped key/value heads and rotary positions in the first half of each head.

Source: reference arithmetic of Hour-LLaVA, MemAug.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.model.memory_repository import MemoryTokens

QUERY_CHUNK = 64  # of a query whose attention is looked at: an hour's memory makes a gigabyte of shares for them


@dataclass(frozen=True)
class KVCache:
    """What an attention makes of a sequence that it looks into, whoever looks.

    Attributes:
        keys: `(memory, key_value_heads, head_dim)`, turned by the positions.
        values: `(memory, key_value_heads, head_dim)`.
    """

    keys: Tensor
    values: Tensor


class RotaryEmbedding(nn.Module):
    """Positions -> cosines and sines for half the width of a head, paired (i, i + head_dim / 4)."""

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.rotated_dim = head_dim // 2
        self.theta = theta

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Angles are products in float32 (an hour has 234,000 positions), rounded to `dtype` only as cosine and sine.

        Args:
            positions: `(tokens,)`.

        Returns:
            Cosine and sine, each `(tokens, head_dim / 4)`.
        """
        with torch.autocast(positions.device.type, enabled=False):
            steps = torch.arange(
                0, self.rotated_dim, 2, dtype=torch.float32, device=positions.device
            )  # (head_dim / 4,)
            frequencies = 1.0 / self.theta ** (steps / self.rotated_dim)  # (head_dim / 4,)
            angles = torch.outer(positions.float(), frequencies)  # (tokens, head_dim / 4)
            return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the first half of each head by its token's angles; the second half stays.

    Args:
        heads: `(tokens, heads, head_dim)`.
        angles: cosine and sine, each `(tokens, head_dim / 4)`.

    Returns:
        `(tokens, heads, head_dim)`.
    """
    cosine, sine = (table[:, None] for table in angles)  # (tokens, 1, head_dim / 4)
    quarter = heads.shape[-1] // 4
    left, right, rest = heads.split([quarter, quarter, heads.shape[-1] - 2 * quarter], dim=-1)
    return torch.cat(
        [left * cosine - right * sine, left * sine + right * cosine, rest], dim=-1
    )  # (tokens, heads, head_dim)


class GroupedQueryAttention(nn.Module):
    """Queries of one sequence look at keys and values of another (or the same); nothing is causal, nothing is masked.

    Groups of query heads share a key/value head: they ask it side by side, and it is read once for all of them. Sequences are
    unbatched: videos differ too much in length to be padded.
    """

    def __init__(self, dim: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, num_key_value_heads * self.head_dim)
        self.value = nn.Linear(dim, num_key_value_heads * self.head_dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        asking: Tensor,
        asked: MemoryTokens | KVCache,
        asking_angles: tuple[Tensor, Tensor],
        asked_angles: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Look from `asking` `(query, dim)` into `asked` `(memory, dim)`, or into what was prepared of it: `(query, dim)`."""
        asked = asked if isinstance(asked, KVCache) else self.project_kv(asked, asked_angles)
        query = self._ask(asking, asking_angles)  # (query, heads, head_dim)
        num_rows, num_shared = len(query), asked.keys.shape[1]
        query = query.unflatten(1, (num_shared, -1)).permute(
            1, 2, 0, 3
        )  # (key_value_heads, group, query, head_dim)
        seen = F.scaled_dot_product_attention(
            query.flatten(1, 2)[None],
            asked.keys.transpose(0, 1)[None],
            asked.values.transpose(0, 1)[None],
        )[0]  # (key_value_heads, group * query, head_dim)
        seen = seen.unflatten(1, (-1, num_rows)).permute(
            2, 0, 1, 3
        )  # (query, key_value_heads, group, head_dim)
        return self.output(seen.flatten(1))  # (query, dim)

    def project_kv(self, asked: MemoryTokens, angles: tuple[Tensor, Tensor]) -> KVCache:
        """All of `asked` `(memory, dim)` that a look into it needs; `forward` and `look` take it in its place."""
        if isinstance(asked, Tensor):
            keys, values = (
                self.key(asked),
                self.value(asked),
            )  # (memory, key_value_heads * head_dim) each
        else:
            keys, values = asked.linear(
                self.key, self.value
            )  # (memory, key_value_heads * head_dim) each
        return KVCache(apply_rotary(self._split_heads(keys), angles), self._split_heads(values))

    def attention_weights(
        self,
        asking: Tensor,
        asked: MemoryTokens | KVCache,
        asking_angles: tuple[Tensor, Tensor],
        asked_angles: tuple[Tensor, Tensor],
    ) -> Tensor:
        """The share of all attention of `asking` that goes to each of `asked`: `(memory,)`, the mean over rows and heads."""
        asked = asked if isinstance(asked, KVCache) else self.project_kv(asked, asked_angles)
        query = self._ask(asking, asking_angles)  # (query, heads, head_dim)
        key = asked.keys.repeat_interleave(
            query.shape[1] // asked.keys.shape[1], dim=1
        )  # (memory, heads, head_dim)
        total = query.new_zeros(len(key), dtype=torch.float32)  # (memory,)
        for rows in query.float().split(QUERY_CHUNK):
            scores = (
                torch.einsum("qhd,mhd->hqm", rows, key.float()) * self.head_dim**-0.5
            )  # (heads, rows, memory)
            total += scores.softmax(dim=-1).sum(dim=(0, 1))  # (memory,)
        return total / query.shape[:2].numel()

    def _ask(self, asking: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        return apply_rotary(
            self._split_heads(self.query(asking)), angles
        )  # (query, heads, head_dim)

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (-1, self.head_dim))  # (tokens, heads, head_dim)
