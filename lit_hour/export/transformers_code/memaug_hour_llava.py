"""MemAug: the question and the kept visual tokens attend to the whole memory.

Source: Hour-LLaVA (arXiv:2506.05332), memory augmentation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_hour_llava import HourLlavaConfig

FEED_FORWARD_CHUNK = 16_384  # tokens at once; the hidden layer is four times as wide

Rotary = tuple[Tensor, Tensor]  # cosines and sines of positions, each (tokens, 1, head_dim / 4)


def rotary_embedding(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Compute the rotary embedding of positions `(tokens,)`, for the first half of each head."""
    half = head_dim // 2
    steps = torch.arange(0, half, 2, dtype=torch.float32, device=positions.device)
    angles = torch.outer(positions.float(), 1.0 / theta ** (steps / half))  # (tokens, head_dim / 4)
    return angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]


def apply_rotary(heads: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the first half of each head: `(tokens, heads, head_dim)` -> the same."""
    cosine, sine = rotary
    quarter = heads.shape[-1] // 4
    left, right, rest = heads.split([quarter, quarter, heads.shape[-1] - 2 * quarter], dim=-1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine, rest], dim=-1)


class GroupedQueryAttention(nn.Module):
    """Grouped-query attention without a causal mask, for one text at a time."""

    def __init__(self, dim: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, num_key_value_heads * self.head_dim)
        self.value = nn.Linear(dim, num_key_value_heads * self.head_dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self, query: Tensor, rotary: Rotary, memory: Tensor, memory_rotary: Rotary
    ) -> Tensor:
        """Attend from each token of the query `(query, dim)` to the memory `(memory, dim)`."""
        heads = self.query(query).unflatten(-1, (-1, self.head_dim))  # (query, heads, head_dim)
        keys = self.key(memory).unflatten(-1, (-1, self.head_dim))  # (memory, kv_heads, head_dim)
        values = self.value(memory).unflatten(-1, (-1, self.head_dim))
        heads, keys = apply_rotary(heads, rotary), apply_rotary(keys, memory_rotary)
        # The query heads of a group lie one after another, so each key is read once for all.
        groups = heads.unflatten(1, (keys.shape[1], -1)).permute(1, 2, 0, 3)
        stacked = groups.flatten(1, 2)[None]  # (1, kv_heads, group * query, head_dim)
        attended = F.scaled_dot_product_attention(
            stacked, keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
        )[0]  # (kv_heads, group * query, head_dim)
        attended = attended.view_as(groups).permute(2, 0, 1, 3).flatten(1)  # (query, dim)
        return self.output(attended)


class MemoryAugmentationBlock(nn.Module):
    """Self-attention of the query, cross-attention to the memory, FFN; each with a post-norm."""

    def __init__(self, dim: int, num_heads: int, num_key_value_heads: int) -> None:
        super().__init__()
        self.self_attention = GroupedQueryAttention(dim, num_heads, num_key_value_heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.cross_attention = GroupedQueryAttention(dim, num_heads, num_key_value_heads)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(
        self, query: Tensor, rotary: Rotary, memory: Tensor | None, memory_rotary: Rotary
    ) -> Tensor:
        """Augment the query `(query, dim)` with the memory, or with itself if that is None."""
        attended = self.self_attention(query, rotary, query, rotary)  # (query, dim)
        hidden = self.self_attention_norm(query + attended)
        attended_to = hidden if memory is None else memory  # (memory, dim)
        attended = self.cross_attention(hidden, rotary, attended_to, memory_rotary)
        hidden = self.cross_attention_norm(hidden + attended)  # (query, dim)
        expanded = [self.feed_forward(chunk) for chunk in hidden.split(FEED_FORWARD_CHUNK)]
        return self.feed_forward_norm(hidden + torch.cat(expanded))  # (query, dim)


class MemoryAugmentation(nn.Module):
    """MemAug: a stack of blocks that all attend to the same memory."""

    def __init__(self, config: HourLlavaConfig) -> None:
        super().__init__()
        text = config.text_config
        self.head_dim = text.hidden_size // text.num_attention_heads
        self.theta = text.rope_parameters["rope_theta"]
        self.use_full_memory = config.use_full_memory
        self.blocks = nn.ModuleList(
            MemoryAugmentationBlock(
                text.hidden_size, text.num_attention_heads, text.num_key_value_heads
            )
            for _ in range(config.memaug_num_layers)
        )

    def forward(
        self,
        embeddings: Tensor,
        is_placeholder: Tensor,
        is_question: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        kept: list[Tensor],
    ) -> Tensor:
        """Attend from the question and the kept tokens of one text to the memory.

        Args:
            embeddings: `(tokens, dim)` of the text.
            is_placeholder: `(tokens,)` bool, where visual tokens will stand.
            is_question: `(tokens,)` bool, the text that memory augmentation may see.
            memory: `(memory, dim)`.
            memory_positions: `(memory,)`, rotary positions.
            kept: indices `(kept,)` in the memory, for each video or image.

        Returns:
            The kept tokens, augmented: `(all kept, dim)`.
        """
        stretches = is_placeholder.nonzero()[:, 0].split([len(indices) for indices in kept])
        ends = [0, *(int(stretch[-1]) + 1 for stretch in stretches)]
        starts = [*(int(stretch[0]) for stretch in stretches), len(embeddings)]
        tokens, positions, is_visual, start = [], [], [], 0
        for bounds, indices in zip(zip(ends, starts, strict=True), [*kept, None], strict=True):
            text = slice(*bounds)  # before, between or after the videos and images
            tokens.append(embeddings[text][is_question[text]])  # (question, dim)
            positions.append(start + torch.arange(len(tokens[-1]), device=memory.device))
            is_visual.append(torch.zeros_like(positions[-1], dtype=torch.bool))  # (question,)
            start += len(tokens[-1])
            if indices is not None:  # kept tokens keep their distances to each other
                tokens.append(memory[indices])  # (kept, dim)
                positions.append(start + memory_positions[indices])  # (kept,)
                is_visual.append(torch.ones_like(positions[-1], dtype=torch.bool))  # (kept,)
                start = int(positions[-1][-1]) + 1
        query, dtype = torch.cat(tokens), embeddings.dtype  # (query, dim)
        rotary = rotary_embedding(torch.cat(positions), self.head_dim, self.theta, dtype)
        memory_rotary = rotary
        if self.use_full_memory:
            memory_rotary = rotary_embedding(memory_positions, self.head_dim, self.theta, dtype)
        for block in self.blocks:
            query = block(query, rotary, memory if self.use_full_memory else None, memory_rotary)
        return query[torch.cat(is_visual)]  # (all kept, dim)
