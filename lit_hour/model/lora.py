"""LoRA adapters of peft on the linear layers of the language model: plain, DoRA or rsLoRA.

Entry point: `inject_adapters`. peft's modules stay in the model while it is trained;
`lit_hour/weights/name_map.py` has their names and merges them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lit_hour.config.model import LoraConfig

ADAPTER = "default"  # peft's name of the only adapter


def inject_adapters(network: nn.Module, config: LoraConfig) -> None:
    """Wrap linear layers of a decoder of transformers into peft's LoRA layers, in place.

    Args:
        network: with random weights.
        config: rank, scale, layers and variant. The frozen weights of the adapted layers get
            `base_precision`; the adapters stay in the precision of the network.
    """
    import peft  # takes as long as the first step of a small model, and few runs need it

    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft accepts a float
        lora_dropout=config.dropout,
        target_modules=list(config.target_names),
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
    )
    peft.inject_adapter_in_model(adapters, network)
    if config.base_precision == "bf16":
        for layer in adapted_layers(network):
            layer.base_layer.to(torch.bfloat16)


def adapted_layers(network: nn.Module) -> Iterator[Any]:
    """Iterate over the layers with adapters: each has `base_layer`, `lora_A` and `lora_B`."""
    return (module for module in network.modules() if hasattr(module, "lora_A"))


@torch.no_grad()
def reset_magnitudes(network: nn.Module) -> None:
    """Set the magnitudes of DoRA so that new adapters do not change the output.

    They are the lengths of the rows of the frozen weights, which may be sharded. Call it when
    these are loaded.
    """
    for layer in adapted_layers(network):
        if layer.lora_magnitude_vector:
            weight: Tensor = layer.base_layer.weight  # (outputs, inputs)
            lengths = torch.linalg.vector_norm(weight.float(), dim=1)  # (outputs,)
            layer.lora_magnitude_vector[ADAPTER].weight.copy_(lengths)
