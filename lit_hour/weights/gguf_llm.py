"""A language model in a GGUF file, with the names of the Hugging Face layout.

Entry points: `gguf_config_values`, its config.json, and `open_gguf_weights`.

    GGUF (llama)                           Hugging Face
    token_embd.*                           model.embed_tokens.*
    output_norm.*                          model.norm.*
    output.*                               lm_head.*             (missing with tied embeddings)
    blk.N.attn_norm, ffn_norm              model.layers.N.input_layernorm, post_attention_layernorm
    blk.N.attn_{q,k,v}, attn_output        model.layers.N.self_attn.{q,k,v}_proj, o_proj
    blk.N.ffn_{gate,up,down}               model.layers.N.mlp.{gate,up,down}_proj

GGUF stores the rows of queries and keys in another order: its rotary embedding turns neighboring
rows of a head, that of transformers the rows of its two halves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_hour.errors import WeightsError
from lit_hour.io.gguf_file import GgufFile, read_gguf
from lit_hour.weights.reader import StoredWeights

ARCHITECTURE = "general.architecture"
LLAMA = "llama"
TOKEN_EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
CONFIG_KEYS = {  # key in the Hugging Face layout: key in a GGUF file, after "llama."
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
UNSUPPORTED_KEYS = ("rope.scaling.type", "expert_count")  # after "llama."
UNSUPPORTED_TENSORS = ("rope_freqs.weight",)  # another rotary embedding
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
HEADS_OF = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}


def gguf_config_values(file: Path) -> dict[str, Any]:
    """Return what the config.json of the same language model contains.

    Raises:
        WeightsError: the file is damaged, or has another architecture.
    """
    gguf = read_gguf(file)
    if gguf.metadata.get(ARCHITECTURE) != LLAMA:
        raise WeightsError(
            f"{file}: {ARCHITECTURE}={gguf.metadata.get(ARCHITECTURE)!r} is unsupported."
            f" Supported: {LLAMA!r}."
        )
    unsupported = [
        f"{LLAMA}.{key}" for key in UNSUPPORTED_KEYS if gguf.metadata.get(f"llama.{key}")
    ]
    unsupported += [name for name in UNSUPPORTED_TENSORS if name in gguf.shapes]
    if unsupported:
        raise WeightsError(f"{file}: {', '.join(unsupported)} is unsupported.")
    values: dict[str, Any] = {
        ours: gguf.metadata.get(f"{LLAMA}.{theirs}") for ours, theirs in CONFIG_KEYS.items()
    }
    return values | {
        "model_type": LLAMA,
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": gguf.shapes.get(TOKEN_EMBEDDING, (None,))[0],
        "hidden_act": "silu",
        "rope_scaling": None,
        "tie_word_embeddings": OUTPUT not in gguf.shapes,
    }


def open_gguf_weights(file: Path) -> StoredWeights:
    """Open the weights of a GGUF file, dequantized to float32 when they are read.

    Raises:
        WeightsError: the file is damaged.
    """
    gguf = read_gguf(file)
    stored_as = {_hf_name(name): name for name in gguf.shapes}
    meta_tensors = {
        name: torch.empty(gguf.shapes[stored], device="meta") for name, stored in stored_as.items()
    }
    return StoredWeights(file, meta_tensors, lambda name: _read(gguf, stored_as[name]))


def _hf_name(name: str) -> str:
    """Return the Hugging Face name of a tensor; names missing in the table are unchanged."""
    if (found := LAYER_TENSOR.fullmatch(name)) and found[2] in LAYER_NAMES:
        return f"model.layers.{found[1]}.{LAYER_NAMES[found[2]]}.{found[3]}"
    part, _, kind = name.rpartition(".")
    return f"{TOP_NAMES[part]}.{kind}" if part in TOP_NAMES else name


def _read(gguf: GgufFile, name: str) -> Tensor:
    """Dequantize a tensor, with the rows of queries and keys in the order of transformers."""
    weight = torch.from_numpy(gguf.read(name).copy())  # the file is mapped read-only
    found = LAYER_TENSOR.fullmatch(name)
    if not found or found[2] not in HEADS_OF:
        return weight
    num_heads = gguf.metadata[f"{LLAMA}.{CONFIG_KEYS[HEADS_OF[found[2]]]}"]
    pairs = weight.unflatten(0, (num_heads, -1, 2))  # (heads, head_dim / 2, 2, ...)
    return pairs.transpose(1, 2).reshape(weight.shape)  # (heads * head_dim, ...)
