"""The projector between the vision encoder and the language model."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Two linear layers with an exact GELU between them.

    Source: reference arithmetic of Hour-LLaVA (`mlp2x_gelu`).
    """

    def __init__(self, vision_dim: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(vision_dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """Project features `(frames, tokens, vision_dim)` to `(frames, tokens, dim)`."""
        return self.layers(features)
