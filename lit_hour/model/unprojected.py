"""Vision tokens -> the repository of a video whose tokens are not made, for who reads it once and asks nothing else of it.

MemAug needs keys and values of all tokens, and the tokens themselves of the few that survive. The projector's last layer and
a layer of keys are one matrix, which is made once for all tokens: K (W hidden + b) + c = (K W) hidden + (K b + c). So the
repository is never in memory as a whole, and two of three products for each of its tokens are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_hour.model.projector import Projector
from lit_hour.model.repository import close_each, number_tokens, repeat_frames
from lit_hour.types import Raster, Repository


class UnprojectedTokens(NamedTuple):
    """The tokens of frames, each closed by an end token, before the projector's last layer.

    Attributes:
        hidden: `(frames, tokens, hidden)`.
        weight: `(dim, hidden)` of the last layer.
        bias: `(dim,)` of the last layer.
        end: `(dim,)` the end token, which is not projected.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    end: Tensor

    def at(self, places: Tensor) -> Tensor:
        """Some of the tokens: `(kept,)` places -> `(kept, dim)`."""
        length = self.hidden.shape[1] + 1
        frames, tokens = places // length, places % length  # (kept,), (kept,)
        is_end = tokens == length - 1  # (kept,)
        hidden = self.hidden[frames, tokens.masked_fill(is_end, 0)]  # (kept, hidden)
        projected = F.linear(hidden, self.weight, self.bias)  # (kept, dim)
        return torch.where(is_end[:, None], self.end.to(projected.dtype), projected)  # (kept, dim)

    def through(self, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """What layers make of all tokens: `(frames * (tokens + 1), outputs)` for each."""
        weight = torch.cat([layer.weight for layer in layers])  # (outputs, dim)
        bias = torch.cat([layer.bias for layer in layers])  # (outputs,)
        folded_bias = F.linear(self.bias, weight, bias)  # (outputs,)
        rows = F.linear(self.hidden, weight @ self.weight, folded_bias.to(bias.dtype))  # (frames, tokens, outputs)
        closed = close_each(rows, F.linear(self.end, weight, bias)).flatten(0, 1)  # (frames * (tokens + 1), outputs)
        return closed.split([layer.out_features for layer in layers], dim=1)


@dataclass(frozen=True)
class UnprojectedRepository:
    """Every token of a video, as `Repository` has them, but not made yet."""

    tokens: UnprojectedTokens
    positions: Tensor
    rasters: tuple[Raster, ...]
    timestamps: Tensor
    num_placeholders: int = 1

    @property
    def num_frames(self) -> int:
        """Frames in the memory, after a short video was repeated up to the minimum."""
        return len(self.timestamps)


MemoryTokens = Tensor | UnprojectedTokens
AnyRepository = Repository | UnprojectedRepository


def build_unprojected_repository(
    encoded: Tensor, projector: Projector, frame_end: Tensor, timestamps: Tensor, min_frames: int
) -> UnprojectedRepository:
    """As `build_repository`, of what the vision encoder made: `encoded` `(frames, tokens, vision_dim)`."""
    hidden, timestamps = repeat_frames(projector.hidden(encoded), timestamps, min_frames)  # (frames, tokens, dim), (frames,)
    tokens = UnprojectedTokens(hidden, projector.last.weight, projector.last.bias, frame_end)
    return UnprojectedRepository(tokens, *number_tokens(hidden), timestamps)
