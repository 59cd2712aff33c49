"""Backbones of the language model: transformers' classes for each `model.llm.model_type`.

Entry point: `build_network`. A new backbone is a line in `BACKBONES`, a value of the setting, a
line in `KINDS` of `lit_hour/weights/hf_config.py`, and a class in `last_decoder_layer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lit_hour.config.model import LLMConfig
from lit_hour.model.last_decoder_layer import replace_last_layer
from lit_hour.model.lora import inject_adapters


@dataclass(frozen=True)
class Backbone:
    """Classes of transformers for one architecture.

    Attributes:
        config_class: takes the sizes of `model.llm`.
        model_class: has `model.layers`, `model.norm`, `model.rotary_emb` and `lm_head`.
        masks_by_layer_type: its decoder takes a mask for each type of attention layer, as a
            mapping; others take one tensor.
    """

    config_class: type[Any]
    model_class: type[Any]
    masks_by_layer_type: bool

    def packed_mask(self, device: torch.device) -> Any:
        """Return the mask of packed texts, with which transformers builds none.

        The attention of packed texts does not read it.
        """
        if self.masks_by_layer_type:
            return {"full_attention": None}
        empty: Tensor = torch.empty(1, 1, 1, 0, device=device)  # four dimensions: used unchanged
        return empty


BACKBONES = {
    "qwen2": Backbone(Qwen2Config, Qwen2ForCausalLM, masks_by_layer_type=True),
    "llama": Backbone(LlamaConfig, LlamaForCausalLM, masks_by_layer_type=False),
}


def build_network_config(config: LLMConfig, vocab_size: int) -> Any:
    """Build the configuration of transformers for the network, without adapters.

    Args:
        config: architecture and sizes.
        vocab_size: rows of the embedding.
    """
    return BACKBONES[config.model_type].config_class(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        intermediate_size=config.intermediate_size,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        rms_norm_eps=config.rms_norm_eps,
        initializer_range=config.initializer_range,
        tie_word_embeddings=config.tie_word_embeddings,
    )


def build_network(config: LLMConfig, vocab_size: int) -> nn.Module:
    """Build the network with random weights, and adapters if they are configured.

    Args:
        config: architecture and sizes.
        vocab_size: rows of the embedding.
    """
    network_config = build_network_config(config, vocab_size)
    network: Any = BACKBONES[config.model_type].model_class(network_config)
    replace_last_layer(network.model.layers)
    if config.lora.rank:
        inject_adapters(network, config.lora)
    return network
