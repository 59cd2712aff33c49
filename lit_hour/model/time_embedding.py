"""A learned embedding of seconds, which is added to the tokens of each frame of a video.

Entry point: `TimeEmbedding`, of `text.frame_times=embedding`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_FREQUENCIES = 32
MIN_PERIOD_SECONDS = 2.0  # shorter ones are aliased at one frame per second
MAX_PERIOD_SECONDS = 2.0**15  # nine hours


class TimeEmbedding(nn.Module):
    """Sinusoidal features of seconds, through a linear layer without bias that starts at zero.

    So a new embedding changes no token, and it has a gradient from the first step on.

    Attributes:
        weight: `(dim, 2 * NUM_FREQUENCIES)`.
    """

    def __init__(self, dim: int) -> None:
        """Args: dim: of the tokens."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, 2 * NUM_FREQUENCIES))

    def reset_parameters(self) -> None:
        """Set the weight to zero."""
        nn.init.zeros_(self.weight)

    def forward(self, seconds: Tensor) -> Tensor:
        """Embed times: `(frames,)` in seconds -> `(frames, dim)`."""
        features = sinusoidal_features(seconds)  # (frames, features)
        return F.linear(features.to(self.weight.dtype), self.weight)


def sinusoidal_features(seconds: Tensor) -> Tensor:
    """Return sines and cosines of times, with periods from seconds to hours, in float32.

    Args:
        seconds: `(frames,)`.

    Returns:
        `(frames, 2 * NUM_FREQUENCIES)`, the sines first.
    """
    periods = torch.logspace(
        math.log2(MIN_PERIOD_SECONDS),
        math.log2(MAX_PERIOD_SECONDS),
        NUM_FREQUENCIES,
        base=2.0,
        dtype=torch.float32,
        device=seconds.device,
    )  # (frequencies,)
    angles = 2 * math.pi * seconds.float()[:, None] / periods  # (frames, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
