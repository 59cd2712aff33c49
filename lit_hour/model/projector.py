"""Vision tokens -> the language model's width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_FRAMES = (
    128  # an hour's gradients are sums over so few chunks that bfloat16 still adds them up well
)


class Projector(nn.Module):
    """Two linear layers with an exact GELU between them.

    Source: reference arithmetic of Hour-LLaVA (`mlp2x_gelu`).
    """

    def __init__(self, vision_dim: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(vision_dim, dim), nn.GELU(), nn.Linear(dim, dim))

    @property
    def last(self) -> nn.Linear:
        """What makes tokens of `hidden`."""
        return self.layers[2]  # type: ignore[return-value]

    def forward(self, tokens: Tensor) -> Tensor:
        """`(frames, tokens, vision_dim)` -> `(frames, tokens, dim)`."""
        return self.layers(tokens)  # (frames, tokens, dim)

    def hidden(self, tokens: Tensor) -> Tensor:
        """All but the last layer: `(frames, tokens, vision_dim)` -> `(frames, tokens, dim)`.

        For the backward pass nothing is kept but what went in: a chunk of frames at a time is computed again.
        """
        chunks = tokens.split(CHUNK_FRAMES)  # (chunk, tokens, vision_dim) for each
        made = [
            checkpoint(self.layers[:2], chunk, use_reentrant=False) for chunk in chunks
        ]  # (chunk, tokens, dim) for each
        return made[0] if len(made) == 1 else torch.cat(made)  # (frames, tokens, dim)
