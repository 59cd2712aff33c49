"""A video's memory divided over ranks, for videos that are too long for one GPU.

Each rank keeps the tokens, keys and values of consecutive frames. All ranks compute the same
queries, attend to their part, and merge the results by log-sum-exp: `attend_sharded`, which equals
attention to all of the memory. `divide_frames` chooses the parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import Tensor, nn

MAX_SCORES = 2**26  # attention scores in memory at once, 0.27 GB in float32

Group = dist.ProcessGroup


def divide_frames(num_frames: int, chunk_frames: int, group: Group) -> slice:
    """Return this rank's frames: equal parts of a video in multiples of a chunk, in rank order.

    Args:
        num_frames: of the video; at least a chunk for each rank.
        chunk_frames: frames that are computed together.
        group: the ranks.
    """
    num_chunks = -(-num_frames // chunk_frames)
    start, end = (
        (dist.get_rank(group) + side) * num_chunks // dist.get_world_size(group) * chunk_frames
        for side in (0, 1)
    )
    return slice(start, min(end, num_frames))


class ShardedTokens(NamedTuple):
    """`MemoryTokens` of which this rank has a part.

    Attributes:
        tensor: `(tokens of this rank, dim)`.
        first: index of the first of them.
        num_tokens: of all ranks.
        group: the ranks. All of them have to call each method together.
    """

    tensor: Tensor
    first: int
    num_tokens: int
    group: Group

    def gather(self, indices: Tensor) -> Tensor:
        """Return some of the tokens on every rank: indices `(kept,)` -> `(kept, dim)`."""
        local = indices - self.first  # (kept,)
        is_here = (local >= 0) & (local < len(self.tensor))  # (kept,)
        found = self.tensor[local.clamp(0, len(self.tensor) - 1)]  # (kept, dim)
        return sum_over_ranks(found.masked_fill(~is_here[:, None], 0), self.group)

    def linear(self, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """Apply linear layers to this rank's tokens: `(tokens of this rank, out_features)` each."""
        return tuple(layer(self.tensor) for layer in layers)

    def dense(self) -> Tensor:
        """Return all tokens on every rank, `(tokens, dim)`."""
        return self.gather(torch.arange(self.num_tokens, device=self.tensor.device))


def attend_sharded(query: Tensor, keys: Tensor, values: Tensor, group: Group) -> Tensor:
    """Attend from the same query on all ranks to the keys and values that they have together.

    In the backward pass every rank gets the whole gradient of the query, and that of its own keys
    and values, for the loss that all ranks compute alike.

    Args:
        query: `(heads, query, head_dim)`, equal on all ranks.
        keys: `(heads, tokens, head_dim)` of this rank.
        values: of these keys.
        group: the ranks; all of them call this together.

    Returns:
        `(heads, query, head_dim)`, equal on all ranks.
    """
    if query.requires_grad:
        query = _SumGradients.apply(query, group)
    attended, log_sum = attend_with_log_sum(query, keys, values)
    largest = funcol.all_reduce(log_sum.detach(), "max", group)  # (heads, query)
    share = (log_sum - largest).exp()[..., None]  # (heads, query, 1), up to the sum of all
    merged = sum_over_ranks(torch.cat([attended * share, share], dim=-1), group)
    return (merged[..., :-1] / merged[..., -1:]).to(query.dtype)  # (heads, query, head_dim)


def attend_with_log_sum(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attend, and return the logarithm of each softmax's denominator.

    Args:
        query: `(heads, query, head_dim)`.
        keys: `(heads, tokens, head_dim)`.
        values: of these keys.

    Returns:
        `(heads, query, head_dim)` and `(heads, query)`, both float32.
    """
    num_queries = max(1, MAX_SCORES // max(1, keys.shape[0] * keys.shape[1]))
    attended, log_sums = [], []
    for chunk in query.split(num_queries, dim=1):
        scores = (chunk * chunk.shape[-1] ** -0.5) @ keys.mT  # (heads, chunk, tokens)
        log_sum = scores.float().logsumexp(dim=-1)  # (heads, chunk)
        weights = (scores.float() - log_sum[..., None]).exp()  # (heads, chunk, tokens)
        attended.append((weights.to(values.dtype) @ values).float())  # (heads, chunk, head_dim)
        log_sums.append(log_sum)
    return torch.cat(attended, dim=1), torch.cat(log_sums, dim=1)


def sum_over_ranks(part: Tensor, group: Group) -> Tensor:
    """Sum a tensor of any shape over ranks; its gradient passes to each part unchanged."""
    return _Sum.apply(part, group) if part.requires_grad else funcol.all_reduce(part, "sum", group)


class _Sum(torch.autograd.Function):
    """All-reduce without communication in the backward pass: all ranks use the result alike."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group) -> Tensor:
        return funcol.wait_tensor(funcol.all_reduce(part, "sum", group))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _SumGradients(torch.autograd.Function):
    """A tensor that all ranks have alike and use differently: its gradients are added up."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = funcol.all_reduce(gradients[0].contiguous(), "sum", ctx.group)
        return funcol.wait_tensor(summed), None
