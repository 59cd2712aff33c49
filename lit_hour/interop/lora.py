"""Low-rank adapters as peft names them <-> plain weights.

....q_proj.base_layer.weight         W: what they adapt
....q_proj.lora_A.default.weight     A: (rank, inputs)
....q_proj.lora_B.default.weight     B: (outputs, rank)      ->      ....q_proj.weight = W + alpha / rank * B A
"""

from __future__ import annotations

from torch import Tensor

from lit_hour.config.model import LoraConfig
from lit_hour.weights import StoredWeights

BASE, ADAPTER = ".base_layer.", ".lora_"
DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


def plain_name(name: str) -> str | None:
    """The name that a weight has in a model without adapters; None for a part of an adapter."""
    return None if ADAPTER in name else name.replace(BASE, ".")


def merge_adapters(stored: StoredWeights, settings: LoraConfig) -> StoredWeights:
    """The weights of a model with adapters as those of one without, each merged in float32 when it is read."""
    stored_as = {plain: name for name in stored.outlines if (plain := plain_name(name)) is not None}

    def read(name: str) -> Tensor:
        weight = stored.read(stored_as[name])  # (outputs, inputs)
        layer = name.removesuffix(".weight")
        if layer + DOWN not in stored.outlines:
            return weight
        down, up = stored.read(layer + DOWN).float(), stored.read(layer + UP).float()  # (rank, inputs), (outputs, rank)
        return (weight.float() + settings.alpha / settings.rank * (up @ down)).to(weight.dtype)  # (outputs, inputs)

    return StoredWeights(stored.path, {plain: stored.outlines[name] for plain, name in stored_as.items()}, read)
